"""The picture of a plan."""

from xml.etree import ElementTree

from pruning.choosing.plan_file import LayerPlan, PruningPlan
from pruning.choosing.saliency_map import heat_map

SVG = "{http://www.w3.org/2000/svg}"


def cells(plan: PruningPlan) -> dict[str, ElementTree.Element]:
    """What a cell says -> the cell."""
    root = ElementTree.fromstring(heat_map(plan))
    return {str(rect.findtext(f"{SVG}title")): rect for rect in root.iter(f"{SVG}rect") if len(rect)}


def plan_of(*layers: LayerPlan) -> PruningPlan:
    return PruningPlan("a < b & c", {}, "reap", 0.5, "layer", 0, None, layers)


def test_a_cell_for_each_expert_that_says_what_became_of_it() -> None:
    found = cells(plan_of(LayerPlan(3, 3, (0, 2), (), (2.0, 0.5, 1.0)), LayerPlan(4, 3, (1, 2), (), (1.0, 2.0, 3.0))))
    assert sorted(found) == [
        "layer 3, expert 0: 2, stays",
        "layer 3, expert 1: 0.5, pruned",
        "layer 3, expert 2: 1, stays",
        "layer 4, expert 0: 1, pruned",
        "layer 4, expert 1: 2, stays",
        "layer 4, expert 2: 3, stays",
    ]
    assert float(found["layer 3, expert 1: 0.5, pruned"].attrib["width"]) < float(
        found["layer 3, expert 2: 1, stays"].attrib["width"]
    )


def test_color_is_the_rank_in_the_layer() -> None:
    found = cells(plan_of(LayerPlan(0, 3, (0,), (), (1e-3, 1e3, 1.0)), LayerPlan(1, 3, (0,), (), (5.0, 7.0, 6.0))))
    fills = [cell.attrib["class"] for _, cell in sorted(found.items())]
    assert fills[:3] == fills[3:]
    assert len(set(fills[:3])) == 3


def test_a_plan_without_saliency_is_drawn_too() -> None:
    assert set(cells(plan_of(LayerPlan(0, 2, (1,), (), ())))) == {
        "layer 0, expert 0: pruned",
        "layer 0, expert 1: stays",
    }
