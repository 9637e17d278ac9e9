"""Memory against context: the context length that each variant can have on each machine, with one engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cards.charts import marks
from cards.charts.labels import Box, along
from cards.charts.marks import plain, text
from cards.charts.scales import Doubling, Linear, linear_from_zero, spread
from cards.charts.units import Unit, unit_for
from sixfold.drawing.svg_document import document, style

_NAME = 11
"""Font size of a machine's name."""


@dataclass(frozen=True)
class MemoryLine:
    """A variant. series: its color. points: (tokens of context, bytes on one device), contexts ascending, two or more;
    the least context of all lines is the same."""

    label: str
    series: int
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Machine:
    """usable: bytes that the engine may take of its one device."""

    title: str
    usable: int


def memory_and_context(
    model: str, engine: str, lines: Sequence[MemoryLine], machines: Sequence[Machine], *, width: int = 760
) -> str:
    """The SVG's text. lines: at least one. machines: those whose memory is out of the chart's range are left out."""
    largest = max(nbytes for line in lines for _, nbytes in line.points)
    unit = unit_for(largest)
    shown = _in_range(machines, lines)
    title = f"Memory against context in {engine}"
    note = _note(engine, machines, shown)
    names = max(marks.width_of(line.label) for line in lines)
    left, right = 62.0, width - names - 30.0
    top = marks.heading_height(title, note, 12, width) + 14
    height = int(top + max(400, 20 * len(lines) + 80))
    bottom = height - 52.0
    contexts = sorted({context for line in lines for context, _ in line.points})
    xs = Doubling(contexts[0], contexts[-1], left + 4, right)
    ys = linear_from_zero([v / unit.factor for v in (largest, *(m.usable for m in shown))], bottom, top)
    body = [*marks.heading(title, note, 12, width), *_axes(xs, ys, unit, left, right, top, bottom)]
    limits = [ys.at(machine.usable / unit.factor) for machine in shown]
    body += [_limit(machine, y, left, right) for machine, y in zip(shown, limits, strict=True)]
    ends = [ys.at(line.points[-1][1] / unit.factor) for line in lines]
    curves = [[(xs.at(context), ys.at(nbytes / unit.factor)) for context, nbytes in line.points] for line in lines]
    dashes = marks.dashes_of([line.series for line in lines])
    places = spread(ends, 17, top + 4, bottom)
    for line, points, end, place, dash in zip(lines, curves, ends, places, dashes, strict=True):
        body.append(marks.path(points, f"l{marks.hue(line.series)}", dash))
        said = [f"{line.label}, {c:,} tokens: {n:,} bytes" for c, n in line.points]
        body += [marks.marker(x, y, line.series, s, radius=3) for (x, y), s in zip(points, said, strict=True)]
        body.append(marks.line(points[-1][0] + 4, end, right + 18, place, "lead"))
        body.append(text(right + 22, place + 4.5, line.label))
    body += _limit_names(
        shown, limits, Box(left, top, right, bottom), [box for curve in curves for box in along(curve)]
    )
    return document(width, height, f"{model}: {title}", style(marks.rules), body, described=_described(lines, shown))


def _in_range(machines: Sequence[Machine], lines: Sequence[MemoryLine]) -> list[Machine]:
    """Machines that hold some of what is drawn and not all of it at its longest, and the next larger one; of machines
    with nearly the same memory the names share one line."""
    least = min(line.points[0][1] for line in lines)
    most = max(nbytes for line in lines for _, nbytes in line.points)
    ordered = sorted((m for m in machines if m.usable >= least), key=lambda m: (m.usable, m.title))
    within = [m for m in ordered if m.usable < most]
    above = [m for m in ordered if most <= m.usable <= 1.6 * most][:1]
    merged: list[Machine] = []
    for machine in within + above:
        if merged and machine.usable - merged[-1].usable < 0.012 * most:
            merged[-1] = Machine(f"{merged[-1].title}; {machine.title}", merged[-1].usable)
        else:
            merged.append(machine)
    return merged


def _note(engine: str, machines: Sequence[Machine], shown: Sequence[Machine]) -> str:
    note = "Weights, KV cache of one sequence, compute buffers and reserve, on one device; 1k is 1,024 tokens."
    if shown:
        return f"{note} Dashed: what {engine} may use on a machine."
    if machines:
        smallest = min(machines, key=lambda m: m.usable)
        least = f"the smallest, {smallest.title}, lets {engine} use {_said(smallest.usable)}"
        return f"{note} Every machine holds all of this: {least}."
    return note


def _said(nbytes: int) -> str:
    unit = unit_for(nbytes)
    return f"{nbytes / unit.factor:.3g} {unit.name}"


def _axes(xs: Doubling, ys: Linear, unit: Unit, left: float, right: float, top: float, bottom: float) -> list[str]:
    drawn = []
    for tick in ys.ticks(8):
        y = ys.at(tick)
        drawn.append(marks.line(left - 2, y, right, y, "axis" if tick == 0 else "rule"))
        drawn.append(text(left - 8, y + 4, plain(tick), anchor="end", css="quiet tick-y", size=marks.SMALL))
    contexts = list(xs.ticks(int((right - left) / 46)))
    if xs.end - xs.at(contexts[-1]) >= 34:
        contexts.append(xs.most)
    for tick in contexts:
        x = xs.at(tick)
        drawn.append(marks.line(x, bottom, x, bottom + 4, "axis"))
        drawn.append(text(x, bottom + 20, tokens(int(tick)), anchor="middle", css="quiet tick-x", size=marks.SMALL))
    middle = (left + right) / 2
    drawn.append(text(middle, bottom + 42, "context, tokens", anchor="middle", css="quiet", size=marks.SMALL))
    y = (top + bottom) / 2
    drawn.append(text(16, y, f"memory, {unit.said}", anchor="middle", css="quiet", size=marks.SMALL, turned=True))
    return drawn


def tokens(count: int) -> str:
    """4096 -> "4k", of 1,024; what is no multiple of that is written out."""
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else f"{count:,}"


def _limit(machine: Machine, y: float, left: float, right: float) -> str:
    said = escape(f"{machine.title}: {machine.usable:,} bytes")
    return f"<g><title>{said}</title>{marks.line(left, y, right, y, 'limit')}</g>"


def _limit_names(machines: Sequence[Machine], limits: Sequence[float], area: Box, curves: Sequence[Box]) -> list[str]:
    """Each over its line or under it, at the place along it where it covers least of curves, lines and other names."""
    drawn, taken = [], list(curves)
    for machine, y in zip(machines, limits, strict=True):
        name = _name(machine.title, area.right - area.left - 12)
        width = marks.width_of(name, _NAME)
        room = max(area.right - area.left - 12 - width, 0)
        lines = [Box(area.left, other - 1, area.right, other + 1) for other in limits if other != y]
        places = [area.left + 6 + room * n / 12 for n in range(13)]
        boxes = [Box(x, top, x + width, top + _NAME + 1) for top in (y - _NAME - 3, y + 2) for x in places]
        best = min(boxes, key=lambda box: sum(box.shared(other) for other in [*taken, *lines]))
        taken.append(best)
        drawn.append(text(best.left, best.top + _NAME - 1, name, css="halo", size=_NAME))
    return drawn


def _name(title: str, room: float) -> str:
    """Of machines that share a line, all names or as many as there is room for."""
    names = title.split("; ")
    for shown in range(len(names), 1, -1):
        rest = f" and {len(names) - shown} more" if shown < len(names) else ""
        name = "; ".join(names[:shown]) + rest
        if marks.width_of(name, _NAME) <= room:
            return name
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else title


def _described(lines: Sequence[MemoryLine], machines: Sequence[Machine]) -> str:
    said = [
        f"{line.label} takes {_said(line.points[0][1])} at {line.points[0][0]:,} tokens and"
        f" {_said(line.points[-1][1])} at {line.points[-1][0]:,}"
        for line in lines
    ]
    said += [f"{machine.title} has {_said(machine.usable)} to use" for machine in machines]
    return f"{'; '.join(said)}."
