"""How far the experts of each layer lie apart: for every layer a line from the least to the most, thick in the middle.

A heat map of 62 layers of 256 experts is noise at the size of a page; this keeps what is read off it: layers whose
experts are used unevenly, and experts that nothing reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cards.charts import marks
from cards.charts.layer_errors import layer_ticks
from cards.charts.marks import plain, px, text
from cards.charts.scales import Linear, log_around
from sixfold.drawing.svg_document import document, style

_GROUP = 5.0
"""Pixels between the lines of two groups of a layer, at most."""


@dataclass(frozen=True)
class Group:
    """Experts that are drawn together. name: for the legend, "" for none. series: its color. layers: of each layer the
    values of its experts, 0 or more, in any order."""

    name: str
    series: int
    layers: tuple[tuple[float, ...], ...]


def expert_spans(
    model: str, title: str, note: str, axis: str, numbers: Sequence[int], groups: Sequence[Group], *, width: int = 760
) -> str:
    """The SVG's text. axis: what the values are. numbers: of the layers. groups: one or two."""
    note = f"{note} Line: lowest to highest; thick: the middle eight tenths; dot: the median."
    left, right = 62.0, width - 18.0
    top = marks.heading_height(title, note, 12, width) + 12 + (22 if groups[0].name else 0)
    height = int(top + 300)
    bottom = height - 52.0
    xs = Linear(0, max(len(numbers) - 1, 1), left + 14, right - 14)
    ys = log_around([value for group in groups for layer in group.layers for value in layer], bottom, top)
    body = [*marks.heading(title, note, 12, width)]
    for tick in ys.ticks(7):
        y = ys.at(tick)
        body.append(marks.line(left - 2, y, right, y, "axis" if tick == ys.ticks(7)[0] else "rule"))
        body.append(text(left - 8, y + 4, plain(tick), anchor="end", css="quiet tick-y", size=marks.SMALL))
    body += marks.zero_break(ys, left)
    for place in layer_ticks(xs, len(numbers)):
        label = str(numbers[place])
        body.append(text(xs.at(place), bottom + 20, label, anchor="middle", css="quiet tick-x", size=marks.SMALL))
    x = 20.0
    for group in (group for group in groups if group.name):
        body.append(marks.marker(x, top - 20, group.series, group.name))
        body.append(text(x + 12, top - 15.5, group.name))
        x += marks.width_of(group.name) + 44
    apart = min(_GROUP, (xs.at(1) - xs.at(0)) / 3)
    for place, number in enumerate(numbers):
        for n, group in enumerate(groups):
            if group.layers[place]:
                at = xs.at(place) + (n - (len(groups) - 1) / 2) * apart * 2
                body += _span(at, sorted(group.layers[place]), ys.at, group, number)
    middle = (left + right) / 2
    body.append(text(middle, bottom + 42, "decoder layer", anchor="middle", css="quiet", size=marks.SMALL))
    y = (top + bottom) / 2
    body.append(text(16, y, axis, anchor="middle", css="quiet", size=marks.SMALL, turned=True))
    described = "; ".join(_said(group, numbers) for group in groups)
    return document(width, height, f"{model}: {title}", style(marks.rules), body, described=f"{described}.")


def _span(x: float, values: Sequence[float], at: Callable[[float], float], group: Group, number: int) -> list[str]:
    css = f"l{marks.hue(group.series)}"
    low, high = quantile(values, 0.1), quantile(values, 0.9)
    said = f"{group.name or 'experts'} of layer {number}: {values[0]:.3g} to {values[-1]:.3g}, median"
    return [
        marks.line(x, at(values[0]), x, at(values[-1]), css),
        f'<path class="{css}" d="M{px(x)} {px(at(low))}L{px(x)} {px(at(high))}" style="stroke-width:5"/>',
        marks.marker(x, at(quantile(values, 0.5)), group.series, f"{said} {quantile(values, 0.5):.3g}", radius=2.5),
    ]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; ordered: ascending."""
    return ordered[round(share * (len(ordered) - 1))]


def _said(group: Group, numbers: Sequence[int]) -> str:
    every = sorted(value for layer in group.layers for value in layer)
    name = group.name or "experts"
    return f"{name} of {len(numbers)} layers: {every[0]:.3g} to {every[-1]:.3g}, median {quantile(every, 0.5):.3g}"
