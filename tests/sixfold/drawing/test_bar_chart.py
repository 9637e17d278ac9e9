"""Bars under each other: as long as their values, labeled, and readable in light and dark."""

import re
from xml.etree import ElementTree

from sixfold.drawing.bar_chart import Bar, bar_chart

SVG = "{http://www.w3.org/2000/svg}"
BARS = (
    Bar("experts & co", 0.4, "0.4", "most <"),
    Bar("attention", 0.1, "0.1", "less", marked=True),
    Bar("b", 0.0, "0", "none"),
)


def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(bar_chart("a < b", "how to read it", BARS))


def bars() -> list[ElementTree.Element]:
    return [rect for rect in drawn().iter(f"{SVG}rect") if len(rect)]


def test_lengths_are_values_and_the_longest_stays_inside() -> None:
    widths = [float(bar.attrib["width"]) for bar in bars()]
    assert widths[1] / widths[0] == 0.25
    assert widths[2] <= 1
    last = max(float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in bars())
    assert last < float(drawn().attrib["width"])
    tops = [float(bar.attrib["y"]) for bar in bars()]
    assert tops == sorted(set(tops))


def test_every_bar_has_its_words() -> None:
    texts = ["".join(text.itertext()) for text in drawn().iter(f"{SVG}text")]
    assert texts[:2] == ["a < b", "how to read it"]
    assert texts[2:] == ["experts & co", "0.4", "attention", "0.1", "b", "0"]
    assert [bar.findtext(f"{SVG}title") for bar in bars()] == ["most <", "less", "none"]
    assert [bar.attrib["class"] for bar in bars()] == ["bar", "bar marked", "bar"]


def test_colors_stand_out_from_the_paper_in_light_and_in_dark() -> None:
    style = next(drawn().iter(f"{SVG}style")).text or ""
    for theme in style.split("@media (prefers-color-scheme: dark)"):
        colors = dict(re.findall(r"\.?(\w+) \{ fill: #(\w{6}) \}", theme))
        assert set(colors) == {"paper", "text", "quiet", "bar", "marked"}
        light = {name: sum(int(hue[at : at + 2], 16) for at in (0, 2, 4)) for name, hue in colors.items()}
        assert all(abs(light[name] - light["paper"]) > 200 for name in ("text", "quiet", "bar", "marked"))


def test_nothing_to_draw_is_a_title() -> None:
    assert "a title" in bar_chart("a title", "", ())
