"""A mix to a recipe's budget: the types of least damage whose files, with all that is around weights, are no larger."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from exporters.mix.choose import Options, choose, smallest
from sixfold.errors import SixfoldError, UsageError
from sixfold.recipes.recipe import Recipe
from sixfold.sizes import size

Laid = TypeVar("Laid")


def fit(
    recipe: Recipe,
    model: str,
    options: Options,
    weights: int,
    lay: Callable[[Mapping[str, str]], tuple[Laid, int]],
    *,
    remedy: str,
) -> Laid:
    """What `lay` makes of the chosen types.

    model: its name. weights: how many it has, which budget.bits is for. lay: from the type of each part to what that
    makes, and the bytes of all its files: more than those of the parts, by headers that grow with the names of scales
    and by what files begin with where there are several. remedy: for a budget that is too small.

    Raises SixfoldError where it is, and UsageError as `budget_bytes`.
    """
    _, lowest = lay({part: min(each, key=lambda kind: each[kind].nbytes) for part, each in options.items()})
    budget = budget_bytes(recipe, weights, lowest)
    around = lowest - smallest(options)
    while True:
        try:
            chosen = choose(options, budget - around)
        except ValueError:
            raise SixfoldError(
                f"{recipe.name}: {model} takes {size(lowest)} at least in the types that a mix may have, and the budget"
                f" is {size(budget)}",
                remedy,
            ) from None
        laid, nbytes = lay(chosen)
        if nbytes <= budget:
            return laid
        around += nbytes - budget


def budget_bytes(recipe: Recipe, weights: int, lowest: int) -> int:
    """Of all files together. lowest: of the smallest mix. Raises UsageError where the budget names a machine only."""
    budget = recipe.budget
    assert budget is not None  # checked
    if budget.bytes is not None:
        return budget.bytes
    if budget.times is not None:
        return int(lowest * budget.times)
    if budget.bits is None:
        raise UsageError(
            f"{recipe.name}: what fits on a machine is not known here", "set budget.bytes, or use `sixfold export`"
        )
    return int(budget.bits * weights / 8)
