"""What a recipe's budget needs before it can be planned: bytes in place of a machine, and statistics that are there."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sixfold.artifact.workspace import Workspace
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Recipe
    from sixfold.statistics.statistics import Statistics


def fitted(source: "Source", recipes: "Sequence[Recipe]") -> "tuple[Recipe, ...]":
    """The recipes, with `budget.bytes` where `budget.fits` names a machine. Raises SixfoldError as
    `cards.budget.room.room_for_weights`."""
    return tuple(_fitted(source, recipes))


def _fitted(source: "Source", recipes: "Sequence[Recipe]") -> "Iterator[Recipe]":
    from cards.budget.room import room_for_weights

    for recipe in recipes:
        budget = recipe.budget
        if budget is None or budget.fits is None:
            yield recipe
            continue
        room = room_for_weights(source.checkpoint.config, budget.fits, budget.context or 0, recipe.engines)
        yield recipe.model_copy(update={"budget": budget.model_copy(update={"bytes": room})})


def known_statistics(workspace: "Workspace") -> "Callable[[Recipe], Statistics | None]":
    """The finished calibration of a recipe's profile; None where there is none yet."""
    from sixfold.statistics.statistics import existing_statistics

    return lambda recipe: existing_statistics(workspace.calibration(recipe.calibration))
