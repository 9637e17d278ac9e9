"""Side by side, what is known of is compensated, and what is not is encoded as without."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from exporters.rounding.factor import Factor, side_by_side

Made = TypeVar("Made")


def each(
    factors: Sequence[Factor | None],
    plainly: Callable[[int], Made],
    compensated: Callable[[Sequence[int], Factor], Sequence[Made]],
) -> list[Made]:
    """One for each factor, in order: those without one by `plainly`, all others together by `compensated`, which gets
    their places and their factors side by side."""
    known = [(place, factor) for place, factor in enumerate(factors) if factor is not None]
    made = {place: plainly(place) for place, factor in enumerate(factors) if factor is None}
    if known:
        places = [place for place, _ in known]
        found = compensated(places, side_by_side([factor for _, factor in known]))
        made |= dict(zip(places, found, strict=True))
    return [made[place] for place in range(len(factors))]
