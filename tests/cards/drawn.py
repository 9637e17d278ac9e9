"""A chart read back from its SVG as a person would: values from places by what stands along the axes."""

import re
from dataclasses import dataclass
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    said: str
    css: str


def root_of(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def marks(svg: str) -> list[Mark]:
    """All markers that say something, in their order. The place that a marker names is the middle of its outline."""
    found = []
    for path in root_of(svg).iter(f"{SVG}path"):
        if "data-x" in path.attrib:
            x, y = float(path.attrib["data-x"]), float(path.attrib["data-y"])
            left, top, right, bottom = _extent(path.attrib["d"])
            assert abs((left + right) / 2 - x) <= 0.11
            assert top < y < bottom
            found.append(Mark(x, y, str(path.findtext(f"{SVG}title")), path.attrib["class"]))
    return found


def _extent(d: str) -> tuple[float, float, float, float]:
    """Of a polygon, or of a circle that is drawn as two arcs."""
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", d)]
    if "a" in d:
        x, y, r = numbers[:3]
        return x, y - r, x + 2 * r, y + r
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def ticks(svg: str, axis: str) -> list[tuple[float, float]]:
    """(value, pixel) of what is written along an axis, "x" or "y"; a label's baseline is 4 pixels under its line."""
    found = []
    for text in root_of(svg).iter(f"{SVG}text"):
        if f"tick-{axis}" in text.attrib.get("class", ""):
            place = float(text.attrib["x"]) if axis == "x" else float(text.attrib["y"]) - 4
            found.append((number(str(text.text)), place))
    return found


def number(text: str) -> float:
    """ "4k" is of 1,024: only context lengths are written so."""
    return float(text[:-1]) * 1024 if text.endswith("k") else float(text.replace(",", ""))


def linear(axis: list[tuple[float, float]], place: float) -> float:
    (v1, p1), (v2, p2) = axis[0], axis[-1]
    return v1 + (place - p1) * (v2 - v1) / (p2 - p1)


def logarithmic(axis: list[tuple[float, float]], place: float) -> float:
    """Zero has a place of its own on such axes."""
    positive = [(value, p) for value, p in axis if value > 0]
    zero = [p for value, p in axis if value == 0]
    if zero and abs(zero[0] - place) < 0.11:
        return 0.0
    (v1, p1), (v2, p2) = positive[0], positive[-1]
    return float(v1 * (v2 / v1) ** ((place - p1) / (p2 - p1)))


@dataclass(frozen=True)
class Label:
    text: str
    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: "Label") -> bool:
        return (
            min(self.right, other.right) - max(self.left, other.left) > 0
            and min(self.bottom, other.bottom) - max(self.top, other.top) > 0
        )


def labels(svg: str, css: str) -> list[Label]:
    """Texts of a class as boxes, in a font with letters of a usual width."""
    found = []
    for text in root_of(svg).iter(f"{SVG}text"):
        if text.attrib.get("class", "") == css:
            size, x, y = (float(text.attrib[key]) for key in ("font-size", "x", "y"))
            width = 0.56 * size * len(str(text.text))
            start = {"start": x, "middle": x - width / 2, "end": x - width}[text.attrib.get("text-anchor", "start")]
            found.append(Label(str(text.text), start, y - 0.75 * size, start + width, y + 0.2 * size))
    return found
