"""Heat maps of a model's experts as SVG: a row for each decoder layer, a cell for each expert.

Each cell has a tooltip. See sixfold.drawing.svg_document for what all pictures share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from sixfold.drawing.svg_document import LIGHT, Theme, document, style

_LEFT, _TOP, _RIGHT, _BOTTOM = 56, 62, 20, 44
_WIDTH = 1040
_LARGEST, _SMALLEST = 26, 4
_STEPS = 9
Color = tuple[int, int, int]
_LIGHT: tuple[Color, ...] = ((226, 236, 246), (96, 160, 205), (8, 44, 92))
_DARK: tuple[Color, ...] = ((34, 46, 60), (62, 128, 172), (214, 236, 255))
"""Least, middle and most."""


@dataclass(frozen=True)
class Cell:
    """One expert. shade: 0 for the least to 1 for the most, None for an empty cell. said: its tooltip.
    small: drawn at half the side (an expert that is not kept). marked: with a colored edge (one to be looked at)."""

    shade: float | None
    said: str
    small: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Row:
    label: str
    cells: tuple[Cell, ...]


def heat_map(title: str, note: str, rows: Sequence[Row], *, least: str, most: str) -> str:
    """The SVG's text. note: one line on how to read it. least, most: labels of the ends of the color scale."""
    longest = max(len(row.cells) for row in rows)
    side = max(_SMALLEST, min(_LARGEST, (_WIDTH - _LEFT - _RIGHT) // longest))
    bottom = _TOP + side * len(rows)
    written = _LEFT + round(6.4 * max(len(note), len(title) * 1.25)) + _RIGHT
    width = max(_LEFT + side * longest + _RIGHT, written, 420)
    height = bottom + _BOTTOM
    lines = [
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        f'<text class="quiet" x="{_LEFT}" y="44">{escape(note)}</text>',
    ]
    every = -(-12 // side)  # a label needs about twelve pixels
    for number, row in enumerate(rows):
        top = _TOP + number * side
        if number % every == 0:
            lines.append(_text(_LEFT - 8, top + side / 2 + 4, row.label, "end"))
        lines.append(f'<g transform="translate({_LEFT} {top})">')
        lines += [_cell(cell, place * side, side) for place, cell in enumerate(row.cells)]
        lines.append("</g>")
    step = every if longest <= 32 else 8 * every
    lines += [_text(_LEFT + (n + 0.5) * side, bottom + 14, str(n), "middle") for n in range(0, longest, step)]
    lines += [
        _text(_LEFT, bottom + 34, "experts, in rows of decoder layers", "start"),
        *_scale(width, bottom, least, most),
    ]
    return document(width, height, title, style(_rules), lines, attributes=' font-size="11"')


def _cell(cell: Cell, left: float, side: int) -> str:
    inset = side * 0.25 if cell.small else 0.5
    step = "none" if cell.shade is None else f"s{round(min(max(cell.shade, 0), 1) * (_STEPS - 1))}"
    if cell.marked:  # the edge is drawn inside of the cell
        step, inset = f"{step} marked", inset + 0.5
    square = f'x="{left + inset:g}" y="{inset:g}" width="{side - 2 * inset:g}" height="{side - 2 * inset:g}"'
    return f'<rect class="{step}" {square}><title>{escape(cell.said)}</title></rect>'


def _scale(width: int, bottom: int, least: str, most: str) -> Iterator[str]:
    """Samples of all shades, at the lower right."""
    right = width - _RIGHT - round(6.4 * len(most)) - 6
    first = right - 12 * _STEPS
    for step in range(_STEPS):
        yield f'<rect class="s{step}" x="{first + 12 * step}" y="{bottom + 25}" width="12" height="10"/>'
    yield _text(first - 6, bottom + 34, least, "end")
    yield _text(right + 6, bottom + 34, most, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="quiet" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _rules(theme: Theme) -> list[str]:
    anchors = _LIGHT if theme is LIGHT else _DARK
    return [
        *(f".s{step} {{ fill: {_mixed(anchors, step / (_STEPS - 1))} }}" for step in range(_STEPS)),
        f".paper {{ fill: {theme.paper} }}",
        f"text {{ fill: {theme.ink} }}",
        f".quiet {{ fill: {theme.quiet} }}",
        ".none { fill: none }",
        f".marked {{ stroke: {theme.edge}; stroke-width: 1.5 }}",
    ]


def _mixed(anchors: Sequence[Color], shade: float) -> str:
    at = shade * (len(anchors) - 1)
    lower = min(int(at), len(anchors) - 2)
    parts = (a + (b - a) * (at - lower) for a, b in zip(anchors[lower], anchors[lower + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in parts)
