"""Which of several variants to take where nothing more is known: the rule that cards and the report's chooser share."""

from collections.abc import Iterable

from cards.facts.variant import Variant

POWER = 4
"""Tokens in a row that a variant is rated by."""


def rating(variant: Variant) -> float:
    """How often it would write the source's next POWER tokens (top-1 agreement to that power), for each byte that the
    engine has to read. The first falls with fewer bits, the second rises; 0 where it was not measured."""
    if not variant.as_run:
        return 0.0
    return float(variant.as_run.top1.value) ** POWER / variant.artifact.weight_nbytes


def best_of(variants: Iterable[Variant]) -> Variant | None:
    """Of those that were measured and passed, the one of the best rating; None where there is none."""
    sound = [variant for variant in variants if variant.passed and variant.as_run]
    return max(sound, key=rating, default=None)
