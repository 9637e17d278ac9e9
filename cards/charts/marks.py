"""The parts that charts are drawn with, as SVG elements: text, lines, markers, axes; and the rules that color them."""

from collections.abc import Iterator, Sequence
from html import escape

from cards.charts.scales import ZERO_ROOM, Log
from sixfold.drawing.svg_document import Theme

SIZE = 13
SMALL = 12
_TITLE = 15
LETTER = 0.6
"""Width of a letter in font sizes, on the safe side: the reader's sans-serif is not known."""
RADIUS = 5.0
_SHAPES = ("circle", "square", "diamond", "triangle", "nabla", "cross")


def rules(theme: Theme) -> list[str]:
    """h0, h1, ...: a series's color as fill; l0, l1, ...: as line. They agree with those of
    sixfold.drawing.heat_map, since inline pictures share a page."""
    hues = list(enumerate(theme.hues))
    return [
        f".paper {{ fill: {theme.paper} }}",
        f"text {{ fill: {theme.ink} }}",
        f".quiet {{ fill: {theme.quiet} }}",
        f".rule {{ stroke: {theme.rule}; stroke-width: 1 }}",
        f".axis {{ stroke: {theme.quiet}; stroke-width: 1 }}",
        f".limit {{ stroke: {theme.quiet}; stroke-width: 1.2; stroke-dasharray: 5 4 }}",
        f".lead {{ fill: none; stroke: {theme.quiet}; stroke-width: 0.8 }}",
        f".halo {{ fill: {theme.quiet}; stroke: {theme.paper}; stroke-width: 4; paint-order: stroke }}",
        f".label {{ fill: {theme.ink}; stroke: {theme.paper}; stroke-width: 3; paint-order: stroke }}",
        f".edge {{ stroke: {theme.edge}; stroke-width: 2.2; fill: none }}",
        *(f".h{n} {{ fill: {hue}; stroke: {theme.paper}; stroke-width: 1 }}" for n, hue in hues),
        *(f".l{n} {{ fill: none; stroke: {hue}; stroke-width: 1.9; stroke-linejoin: round }}" for n, hue in hues),
    ]


def hue(number: int) -> int:
    """Color of a series, of six. Series 0 to 5 have one each; 6 to 11 have their shapes (a series' shape is its number
    modulo 6) and each the next color, and so on: two series of one shape differ in color."""
    return (number + number // 6) % 6


def px(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def text(
    x: float, y: float, content: str, *, anchor: str = "start", css: str = "", size: int = SIZE, turned: bool = False
) -> str:
    """turned: read from below."""
    attributes = f' class="{css}"' if css else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    attributes += f' transform="rotate(-90 {px(x)} {px(y)})"' if turned else ""
    return f'<text x="{px(x)}" y="{px(y)}" font-size="{size}"{attributes}>{escape(content)}</text>'


def width_of(content: str, size: int = SIZE) -> float:
    return LETTER * size * len(content)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<path class="{css}" d="M{px(x1)} {px(y1)}L{px(x2)} {px(y2)}"/>'


def path(points: Sequence[tuple[float, float]], css: str, dashes: str = "") -> str:
    steps = "L".join(f"{px(x)} {px(y)}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path class="{css}"{dashed} d="M{steps}"/>'


def dashes_of(series: Sequence[int]) -> list[str]:
    """Of lines in order, so that those of one color differ: the first whole, the others dashed each in its way."""
    patterns = ("", "7 3", "2 3", "8 3 2 3", "14 4")
    hues = [hue(number) for number in series]
    return [patterns[hues[:n].count(color) % len(patterns)] for n, color in enumerate(hues)]


def marker(x: float, y: float, number: int, said: str, radius: float = RADIUS) -> str:
    """A series's shape in its color; said: its tooltip."""
    d = _outline(_SHAPES[number % 6], x, y, radius)
    return (
        f'<path class="h{hue(number)}" data-x="{px(x)}" data-y="{px(y)}" d="{d}"><title>{escape(said)}</title></path>'
    )


def _outline(shape: str, x: float, y: float, r: float) -> str:
    """Shapes of about the same area."""
    if shape == "circle":
        return f"M{px(x - r)} {px(y)}a{px(r)} {px(r)} 0 1 0 {px(2 * r)} 0a{px(r)} {px(r)} 0 1 0 {px(-2 * r)} 0z"
    a, b, c = 0.89 * r, 1.28 * r, 0.45 * r
    corners = {
        "square": [(-a, -a), (a, -a), (a, a), (-a, a)],
        "diamond": [(0, -b), (b, 0), (0, b), (-b, 0)],
        "triangle": [(0, -b), (b, a), (-b, a)],
        "nabla": [(0, b), (b, -a), (-b, -a)],
        "cross": [
            (-c, -b), (c, -b), (c, -c), (b, -c), (b, c), (c, c), (c, b), (-c, b), (-c, c), (-b, c), (-b, -c), (-c, -c),
        ],
    }[shape]  # fmt: skip
    return "M" + "L".join(f"{px(x + dx)} {px(y + dy)}" for dx, dy in corners) + "z"


def heading(title: str, note: str, left: float, width: float) -> Iterator[str]:
    """The title and under it how to read the chart, both wrapped."""
    y = 24.0
    for row in wrapped(title, width - left - 12, _TITLE):
        yield text(left, y, row, size=_TITLE)
        y += 19
    for row in wrapped(note, width - left - 12, SMALL):
        yield text(left, y, row, css="quiet", size=SMALL)
        y += 16


def heading_height(title: str, note: str, left: float, width: float) -> float:
    rows = len(wrapped(title, width - left - 12, _TITLE))
    return 15.0 + 19 * rows + 16 * len(wrapped(note, width - left - 12, SMALL))


def zero_break(axis: Log, x: float) -> Iterator[str]:
    """Two strokes across a vertical axis between its lowest value and zero: the distance there is none of its scale."""
    if axis.zero:
        middle = axis.start - ZERO_ROOM / 2
        yield f'<rect class="paper" x="{px(x - 4)}" y="{px(middle - 3)}" width="8" height="6"/>'
        for y in (middle - 3, middle + 3):
            yield line(x - 5, y + 2, x + 5, y - 2, "axis")


def wrapped(content: str, width: float, size: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words. Running text is narrower than labels."""
    rows: list[str] = []
    for word in content.split():
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and 0.95 * width_of(longer, size) <= width:
            rows[-1] = longer
        else:
            rows.append(word)
    return rows


def plain(value: float) -> str:
    """A tick as people write it: no exponent, no trailing zeros."""
    return "0" if value == 0 else f"{value:,.12g}" if value >= 1 else f"{value:.6f}".rstrip("0")
