"""Size against KL: how large each variant is, and how far from its source."""

from collections.abc import Sequence
from dataclasses import dataclass

from cards.charts import marks
from cards.charts.labels import Box, along, place
from cards.charts.marks import plain, text
from cards.charts.scales import Log, log_around
from cards.charts.units import Unit, unit_for
from sixfold.drawing.svg_document import document, style

_NOTE = "Down and to the left is better. The line joins what no other variant beats in both."


@dataclass(frozen=True)
class Measured:
    """A variant. series: its color and shape. nbytes: its size. kl: mean KL per token in nats. said: what a pointer
    over it reads. sound: whether it passed its checks and gates."""

    label: str
    series: int
    nbytes: int
    kl: float
    said: str
    sound: bool = True


def size_and_kl(model: str, variants: Sequence[Measured], *, width: int = 760) -> str:
    """The SVG's text. variants: at least one."""
    unit = unit_for(max(v.nbytes for v in variants))
    title = "Size and distance from the source"
    left, right = 62.0, width - 18.0
    note = _NOTE + ("" if all(v.sound for v in variants) else " A ring marks what failed a check or a gate.")
    top = marks.heading_height(title, note, 12, width) + 12
    height = int(top + (400 if width > 500 else 380))
    bottom = height - 52.0
    xs = _sizes([v.nbytes / unit.factor for v in variants], left, right)
    ys = log_around([v.kl for v in variants], bottom, top)
    points = [(xs.at(v.nbytes / unit.factor), ys.at(v.kl), v.label) for v in variants]
    bounds = Box(left + 2, top, right, bottom - 2)
    frontier = _frontier(points)
    body = [
        *marks.heading(title, note, 12, width),
        *_axes(xs, ys, unit, bounds),
        *marks.zero_break(ys, left),
        marks.path(frontier, "lead"),
    ]
    for variant, (x, y, _), placed in zip(variants, points, place(points, bounds, along(frontier)), strict=True):
        if placed.lead:
            body.append(marks.line(*placed.lead, css="lead"))
        if not variant.sound:
            body.append(f'<circle class="edge" cx="{marks.px(x)}" cy="{marks.px(y)}" r="9"/>')
        body.append(marks.marker(x, y, variant.series, variant.said))
        body.append(text(placed.x, placed.y, variant.label, anchor=placed.anchor, css="label"))
    described = f"{note} {'; '.join(v.said for v in variants)}."
    return document(width, height, f"{model}: {title}", style(marks.rules), body, described=described)


def _sizes(values: Sequence[float], start: float, end: float) -> Log:
    """Logarithmic too: a step to the left is the same saving everywhere."""
    return Log(min(values) * 0.88, max(values) * 1.14, start, end)


def _axes(xs: Log, ys: Log, unit: Unit, box: Box) -> list[str]:
    drawn = []
    for tick in ys.ticks(7):
        y = ys.at(tick)
        drawn.append(marks.line(box.left - 2, y, box.right, y, "axis" if tick == ys.ticks(7)[0] else "rule"))
        drawn.append(text(box.left - 8, y + 4, plain(tick), anchor="end", css="quiet tick-y", size=marks.SMALL))
    for tick in size_ticks(xs):
        x = xs.at(tick)
        drawn.append(marks.line(x, box.top, x, box.bottom + 2, "rule"))
        drawn.append(text(x, box.bottom + 20, plain(tick), anchor="middle", css="quiet tick-x", size=marks.SMALL))
    middle = (box.left + box.right) / 2
    drawn.append(text(middle, box.bottom + 42, f"size, {unit.said}", anchor="middle", css="quiet", size=marks.SMALL))
    y = (box.top + box.bottom) / 2
    drawn.append(text(16, y, "mean KL per token, nats", anchor="middle", css="quiet", size=marks.SMALL, turned=True))
    return drawn


def size_ticks(xs: Log) -> tuple[float, ...]:
    """Round sizes at least 34 pixels apart: finer than powers of ten, since sizes span a decade or less."""
    steps = [float(f"{s * 10.0**e:.6g}") for e in range(-3, 6) for s in (1, 1.5, 2, 3, 4, 5, 6, 8)]
    chosen: list[float] = []
    for value in steps:
        if xs.least <= value <= xs.most and (not chosen or xs.at(value) - xs.at(chosen[-1]) >= 34):
            chosen.append(value)
    return tuple(chosen)


def _frontier(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float]]:
    """Of pixels: x to the right is larger, y downwards is closer."""
    best: list[tuple[float, float]] = []
    for x, y, _ in sorted(points, key=lambda p: (p[0], -p[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best
