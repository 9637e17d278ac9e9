"""The picture of a number per expert: a cell for each, shades in order, readable in light and dark."""

import re
from xml.etree import ElementTree

from sixfold.drawing.heat_map import Cell, Row, heat_map

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*rows: Row) -> str:
    return heat_map("a < b", "how to read it", rows, least="least & so", most="most")


def cells(svg: str) -> dict[str, ElementTree.Element]:
    """What a cell says -> the cell."""
    rects = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    return {str(rect.findtext(f"{SVG}title")): rect for rect in rects if len(rect)}


def place_of(group: ElementTree.Element) -> tuple[float, float]:
    left, top = group.attrib["transform"].removeprefix("translate(").removesuffix(")").split()
    return float(left), float(top)


def shades(svg: str) -> dict[str, list[int]]:
    """Brightness of the nine shades, "light" and "dark"."""
    light, dark = svg.split("@media (prefers-color-scheme: dark)")
    found = {}
    for name, text in (("light", light), ("dark", dark)):
        colors = re.findall(r"\.s(\d) \{ fill: #(\w\w)(\w\w)(\w\w) \}", text)
        assert [int(step) for step, *_ in colors] == list(range(9))
        found[name] = [sum(int(part, 16) for part in rgb) for _, *rgb in colors]
    return found


def test_a_cell_for_each_expert_in_the_row_of_its_layer() -> None:
    svg = drawn(
        Row("3", (Cell(0.0, "a"), Cell(0.5, "b", small=True), Cell(1.0, "c", marked=True))),
        Row("4", (Cell(None, "d", marked=True), Cell(0.49, "e <&>"))),
    )
    found = cells(svg)
    assert {said: cell.attrib["class"] for said, cell in found.items()} == {
        "a": "s0",
        "b": "s4",
        "c": "s8 marked",
        "d": "none marked",
        "e <&>": "s4",
    }
    assert float(found["b"].attrib["width"]) * 1.5 < float(found["a"].attrib["width"])
    lefts = [float(found[said].attrib["x"]) for said in "abc"]
    assert lefts == sorted(lefts)
    groups = list(ElementTree.fromstring(svg).iter(f"{SVG}g"))
    assert [[rect.findtext(f"{SVG}title") for rect in group] for group in groups] == [["a", "b", "c"], ["d", "e <&>"]]
    tops = [place_of(group)[1] for group in groups]
    assert tops[0] < tops[1]


def test_shades_run_from_the_paper_away_in_light_and_in_dark() -> None:
    found = shades(drawn(Row("0", (Cell(0.5, "a"),))))
    assert found["light"] == sorted(found["light"], reverse=True)
    assert found["dark"] == sorted(found["dark"])


def test_it_is_whole_by_itself_and_fits() -> None:
    """No script, font or link; the largest model's picture is as wide as a page and every cell is within."""
    svg = drawn(*(Row(str(layer), tuple(Cell(e / 255, f"{layer} {e}") for e in range(256))) for layer in range(62)))
    assert not re.search(r"href|script|url\(|@import|@font", svg)
    root = ElementTree.fromstring(svg)
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    assert width < 1200
    found = cells(svg)
    assert len(found) == 62 * 256
    last = found["61 255"]
    left, _ = place_of(list(root.iter(f"{SVG}g"))[-1])
    assert left + float(last.attrib["x"]) + float(last.attrib["width"]) <= width
    assert 62 * 4 < height < 1200
