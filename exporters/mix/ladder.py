"""What each further byte of a mix buys, from the smallest mix to the largest, by the damage that was foretold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from exporters.export.planning import plan_of
from exporters.mix.choose import choose, smallest
from exporters.protocol import Mixing
from exporters.registry import exporter_named
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics

RUNGS = 12


@dataclass(frozen=True)
class Rung:
    """nbytes: of all weight files, with headers as long as those of the smallest mix. kl: that is expected, nats per
    token (weights alone, errors of parts added up). raised: parts that have another type than on the rung below, with
    it."""

    nbytes: int
    kl: float
    raised: Mapping[str, str]


def ladder(source: Source, recipe: Recipe, statistics: Statistics, rungs: int = RUNGS) -> tuple[Rung, ...]:
    """Smallest first, in equal steps of bytes up to the largest types; () where damage was not foretold yet.

    recipe: one with a budget, whose exporter mixes types.
    """
    assert recipe.budget is not None  # by the caller
    options = cast(Mixing, exporter_named(recipe.exporter)).offered(source, recipe, statistics)
    if options is None:
        return ()
    limits = {"bits": None, "bytes": None, "fits": None, "context": None, "times": 1.0}
    lowest = plan_of(source, recipe.model_copy(update={"budget": recipe.budget.model_copy(update=limits)}), statistics)
    assert lowest is not None  # it is a native exporter's
    around = sum(file.nbytes for file in lowest.files) - smallest(options)
    most = sum(max(option.nbytes for option in each.values()) for each in options.values())
    found: list[Rung] = []
    below: Mapping[str, str] = {}
    for budget in _steps(smallest(options), most, rungs):
        chosen = choose(options, budget)
        held = [options[part][kind] for part, kind in chosen.items()]
        raised = {part: kind for part, kind in chosen.items() if below and below[part] != kind}
        rung = Rung(around + sum(o.nbytes for o in held), sum(o.damage for o in held), raised)
        if not found or rung.kl < found[-1].kl:
            found.append(rung)
        below = chosen
    return tuple(found)


def _steps(least: int, most: int, number: int) -> Sequence[int]:
    return [least + (most - least) * step // (number - 1) for step in range(number)]
