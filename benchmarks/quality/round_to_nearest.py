"""The AWQ exporter without its search: what plain rounding makes of the same weights in the same layout.

A recipe names it as `exporter: benchmarks.quality.round_to_nearest`; no user has a reason to.
"""

from exporters.awq import AwqExporter
from exporters.protocol import Decided
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics


class RoundToNearest(AwqExporter):
    """Nothing is decided: scales are one, and every group's range reaches from its smallest to its largest weight."""

    def needs_statistics(self, recipe: Recipe) -> bool:
        return False

    def compensates(self, recipe: Recipe) -> bool:
        return False

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        return Decided({})


EXPORTER = RoundToNearest()
