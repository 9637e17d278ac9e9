"""The benchmarks of a card's artifacts, side by side."""

from collections.abc import Sequence

from cards.facts.traced import Fact
from cards.facts.variant import Variant

Tested = tuple[Variant, Fact]


def benchmarks_of(mine: Sequence[Variant]) -> list[tuple[Fact, list[Tested]]]:
    """The name of each benchmark, with the artifacts that it was run on and what came of it there."""
    found: dict[str, tuple[Fact, list[Tested]]] = {}
    for variant in mine:
        for test in variant.evaluation.benchmarks:
            found.setdefault(test.name.value, (test.name, []))[1].append((variant, test))
    return list(found.values())
