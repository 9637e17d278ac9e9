"""Error of the hidden states after every decoder layer, relative to the source's: shows where a variant diverges."""

from collections.abc import Sequence
from dataclasses import dataclass

from cards.charts import marks
from cards.charts.marks import plain, text
from cards.charts.scales import Linear, log_around, spread
from sixfold.drawing.svg_document import document, style

_NOTE = "Relative error of the hidden states after each decoder layer, as run, over held-out text. Lower is better."
_FEW = 12
"""Layers up to which each value has a marker of its own."""


@dataclass(frozen=True)
class LayerLine:
    """A variant. series: its color. errors: of each decoder layer, first to last, as a share of the source's norm."""

    label: str
    series: int
    errors: tuple[float, ...]


def layer_errors(model: str, lines: Sequence[LayerLine], *, width: int = 760) -> str:
    """The SVG's text. lines: at least one, of equally many layers."""
    title = "Error from layer to layer"
    layers = max(len(line.errors) for line in lines)
    names = max(marks.width_of(line.label) for line in lines)
    left, right = 62.0, width - names - 30.0
    top = marks.heading_height(title, _NOTE, 12, width) + 12
    height = int(top + max(360, 20 * len(lines) + 80))
    bottom = height - 52.0
    xs = Linear(0, max(layers - 1, 1), left + 8, right)
    ys = log_around([error for line in lines for error in line.errors], bottom, top)
    body = [*marks.heading(title, _NOTE, 12, width)]
    for tick in ys.ticks(7):
        y = ys.at(tick)
        body.append(marks.line(left - 2, y, right, y, "axis" if tick == ys.ticks(7)[0] else "rule"))
        body.append(text(left - 8, y + 4, plain(tick), anchor="end", css="quiet tick-y", size=marks.SMALL))
    for layer in layer_ticks(xs, layers):
        x = xs.at(layer)
        body.append(marks.line(x, bottom, x, bottom + 4, "axis"))
        body.append(text(x, bottom + 20, str(layer), anchor="middle", css="quiet tick-x", size=marks.SMALL))
    body += marks.zero_break(ys, left)
    ends = [ys.at(line.errors[-1]) for line in lines]
    dashes = marks.dashes_of([line.series for line in lines])
    for line, end, place, dash in zip(lines, ends, spread(ends, 17, top + 6, bottom), dashes, strict=True):
        points = [(xs.at(layer), ys.at(error)) for layer, error in enumerate(line.errors)]
        body.append(marks.path(points, f"l{marks.hue(line.series)}", dash))
        if layers <= _FEW:
            body += [
                marks.marker(x, y, line.series, f"{line.label}, layer {n}: {line.errors[n]:.4g}", radius=4)
                for n, (x, y) in enumerate(points)
            ]
        body.append(marks.line(points[-1][0] + 5, end, right + 18, place, "lead"))
        body.append(text(right + 22, place + 4.5, line.label))
    middle = (left + right) / 2
    body.append(text(middle, bottom + 42, "decoder layer", anchor="middle", css="quiet", size=marks.SMALL))
    y = (top + bottom) / 2
    body.append(text(16, y, "relative error", anchor="middle", css="quiet", size=marks.SMALL, turned=True))
    return document(width, height, f"{model}: {title}", style(marks.rules), body, described=_described(lines))


def layer_ticks(xs: Linear, layers: int) -> list[int]:
    """Every layer, or every second, fifth, tenth, ... as there is room for."""
    room = (xs.end - xs.start) / max(layers - 1, 1)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if step * room >= 26 or step == 100)
    return list(range(0, layers, step))


def _described(lines: Sequence[LayerLine]) -> str:
    said = [
        f"{line.label} {line.errors[0]:.4g} after the first and {line.errors[-1]:.4g} after the last" for line in lines
    ]
    return f"Relative error of the hidden states: {'; '.join(said)}."
