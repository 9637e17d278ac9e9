"""A mix whose files fill a budget, though what is around the weights grows with the choice."""

from collections.abc import Mapping

import pytest

from exporters.mix.choose import Option, choose
from exporters.mix.fit import fit
from sixfold.errors import SixfoldError, UsageError
from sixfold.recipes.recipe import Recipe, load_recipes

PARTS = {f"part {n}": {"small": Option(100, 9.0), "large": Option(200, 1.0)} for n in range(10)}
HEADER, NAME = 50, 30
"""Bytes before all weights, and of the names that each large part adds."""


def files(chosen: Mapping[str, str]) -> tuple[Mapping[str, str], int]:
    large = list(chosen.values()).count("large")
    return chosen, HEADER + 10 * 100 + large * (100 + NAME)


def recipe(budget: str) -> Recipe:
    (found,) = load_recipes("nvfp4-auto", [budget])
    return found


def fitted(budget: str) -> Mapping[str, str]:
    return fit(recipe(budget), "m", PARTS, 2000, files, remedy="raise it")


@pytest.mark.parametrize(
    ("budget", "large"),
    [
        ("budget.bytes=1050", 0),  # the smallest to the byte
        ("budget.bytes=1700", 5),  # 5 more names in 650 bytes; parts alone would let 6 be large
        ("budget.bytes=2350", 10),
        ("budget.bits=6.8", 5),  # of 2000 weights
        ("budget.times=1.25", 2),  # of 1050 bytes
    ],
)
def test_files_are_no_larger_and_one_more_would_not_fit(budget: str, large: int) -> None:
    assert list(fitted(budget).values()).count("large") == large


def test_parts_by_themselves_would_be_too_many() -> None:
    assert files(choose(PARTS, 1700 - HEADER))[1] > 1700


def test_a_budget_below_the_smallest_files_is_refused() -> None:
    with pytest.raises(SixfoldError, match=r"m takes 1\.05 kB at least .* the budget is 1\.05 kB; raise it"):
        fitted("budget.bytes=1049")


def test_a_machine_is_none() -> None:
    with pytest.raises(UsageError, match="what fits on a machine is not known here"):
        fitted("budget={fits: 24gb-gpu, context: 4096}")
