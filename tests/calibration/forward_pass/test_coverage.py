"""Coverage as a table and as a picture."""

from calibration.coverage_map import coverage_map
from calibration.forward_pass.coverage import coverage_of, table
from tests.sixfold.drawing.test_heat_map import cells

LAYERS = (coverage_of(1, (100, 0, 20, 280), 32), coverage_of(2, (5, 5, 5, 5, 5, 5), 32))


def test_a_row_for_each_layer() -> None:
    assert table(LAYERS) == [
        (1, 4, 0, 60, 280, "1 (0), 2 (20)"),
        (2, 6, 5, 5, 5, "0 (5), 1 (5), 2 (5) and 3 more"),
    ]
    assert table((coverage_of(0, (40, 50), 32),)) == [(0, 2, 40, 45, 50, "-")]


def test_the_picture_shades_by_share_and_marks_the_starved() -> None:
    """An even share is the middle of the scale, and a factor of two is the same step anywhere."""
    svg = coverage_map("a model", LAYERS, 32)
    found = {said: cell.attrib["class"] for said, cell in cells(svg).items()}
    assert found["layer 1, expert 0: 100 tokens"] == "s4"
    assert found["layer 1, expert 1: 0 tokens"] == "none marked"
    assert found["layer 1, expert 2: 20 tokens"] == "s1 marked"  # a fifth
    assert found["layer 1, expert 3: 280 tokens"] == "s6"
    assert found["layer 2, expert 5: 5 tokens"] == "s4 marked"
    assert "the 8 with an edge saw fewer than 32" in svg
    assert "tokens that reached 10 experts" in svg
    assert "edge" not in coverage_map("a model", (coverage_of(0, (40, 50), 32),), 32).split("</style>")[1]
