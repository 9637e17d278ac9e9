"""What a budget may say, how it is named, and which of two limits holds."""

from pathlib import Path

import pytest

from sixfold.errors import UsageError
from sixfold.recipes.budget import Budget
from sixfold.recipes.recipe import Recipe, load_recipes


def mix(*overrides: str) -> Recipe:
    (found,) = load_recipes("gguf-auto", overrides)
    return found


def budget(*overrides: str) -> Budget:
    found = mix(*overrides).budget
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("stated", "label"),
    [
        ("bits: 4.5", "4.5bpw"),
        ("bytes: 84GB", "84GB"),
        ("bytes: 84.25 GB", "84.25GB"),
        ("bytes: 14MB", "14MB"),
        ("bytes: 12345678", "12345678B"),
        ("times: 1.05", "1.05x"),
        ("fits: gb10, context: 128k", "gb10-128k"),
        ("fits: gb10, context: 100000", "gb10-100000"),
    ],
)
def test_files_are_named_by_the_budget(stated: str, label: str) -> None:
    found = mix(f"budget={{{stated}}}")
    assert found.label == f"AUTO-{label}"


def test_sizes_and_contexts_are_read_as_people_write_them() -> None:
    assert budget("budget.bytes=84GB").bytes == 84_000_000_000
    assert budget("budget.bytes=80GiB").bytes == 80 * 1024**3
    assert budget("budget.fits=gb10", "budget.context=32k").context == 32768


@pytest.mark.parametrize(
    "order", [("budget.fits=gb10", "budget.context=4k"), ("budget.context=4k", "budget.fits=gb10")]
)
def test_a_limit_takes_the_place_of_the_recipes_own(order: tuple[str, str]) -> None:
    found = budget(*order)
    assert (found.bits, found.fits, found.context) == (None, "gb10", 4096)
    assert budget("budget.bits=5", "budget.bytes=1GB").bits is None


def test_a_limit_leaves_the_types_of_what_a_recipe_extends(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("name: one\nextends: gguf-auto\nbudget: {bits: 4, types: [Q3_K, Q5_K]}\n")
    (tmp_path / "two.yaml").write_text("name: two\nextends: one.yaml\nbudget: {bytes: 9GB}\n")
    (found,) = load_recipes(str(tmp_path / "two.yaml"))
    assert found.budget == Budget(bytes=9_000_000_000, types=("Q3_K", "Q5_K"))


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ("bits: 4, bytes: 1GB", "needs one of `bits`, `bytes`, `times` and `fits`"),
        ("fits: gb10", "needs `context` beside `fits`"),
        ("bits: 4, context: 8k", "has a context, which only `fits` is for"),
        ("bytes: 84XB", "'84XB' is not a size; write it like 24GB or 80GiB"),
        ("bits: 0", "is not more than 0"),
        ("times: 0.9", "is less than 1"),
        ("bit: 4", "perhaps bits is meant"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(stated: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nsuffix: M\ntitle: mine\nexporter: gguf\nscheme: AUTO\nbudget: {{{stated}}}\n")
    with pytest.raises(UsageError) as refused:
        load_recipes(str(file))
    assert says in str(refused.value)
    assert "mine.yaml:6: budget" in str(refused.value)
