"""The least damage for a budget of bytes: one option for every part of a model.

A knapsack with one choice per part, solved by dynamic programming over what is left of the budget beyond the smallest
size of all: exactly where that is at most STEPS times the sizes' common divisor, and else in STEPS steps, with sizes
rounded up, so that the budget holds; what rounding up left over is then spent where a byte saves most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np

STEPS = 1 << 16


@dataclass(frozen=True)
class Option:
    """nbytes: of the part at this type. damage: what that costs, in any unit that adds up."""

    nbytes: int
    damage: float


Options = Mapping[str, Mapping[str, Option]]
"""Part -> type -> option."""


def smallest(parts: Options) -> int:
    """Bytes of all parts, each at its smallest."""
    return sum(min(option.nbytes for option in options.values()) for options in parts.values())


def choose(parts: Options, budget: int) -> dict[str, str]:
    """Part -> type, of at most `budget` bytes in all and of the least damage. Raises ValueError where even the smallest
    options are larger."""
    spare = budget - smallest(parts)
    if spare < 0:
        raise ValueError(f"{smallest(parts):,} bytes at least")
    useful = {part: _useful(options) for part, options in parts.items()}
    chosen = _solve(useful, spare)
    _spend(useful, chosen, budget)
    return {part: useful[part][index][0] for part, index in chosen.items()}


def _useful(options: Mapping[str, Option]) -> list[tuple[str, Option]]:
    """By size; without those that another one is as small as and no worse."""
    found: list[tuple[str, Option]] = []
    for name, option in sorted(options.items(), key=lambda item: (item[1].nbytes, item[1].damage, item[0])):
        if not found or option.damage < found[-1][1].damage:
            found.append((name, option))
    return found


def _solve(useful: Mapping[str, list[tuple[str, Option]]], spare: int) -> dict[str, int]:
    """Index of each part's option: the sum of sizes, rounded up to steps, is within `spare` of the smallest."""
    unit = gcd(*(o.nbytes - options[0][1].nbytes for options in useful.values() for _, o in options)) or 1
    step = unit * max(1, -(-spare // (unit * STEPS)))
    width = spare // step + 1
    best = np.zeros(width)  # least damage of the parts so far within so many steps
    picks: list[np.ndarray] = []
    for options in useful.values():
        least = options[0][1].nbytes
        found = np.full(width, np.inf)
        pick = np.zeros(width, np.uint8)
        for index, (_, option) in enumerate(options):
            cost = -(-(option.nbytes - least) // step)
            if cost < width:
                tried = best[: width - cost] + option.damage
                better = tried < found[cost:]
                found[cost:][better] = tried[better]
                pick[cost:][better] = index
        best = found
        picks.append(pick)
    left, chosen = width - 1, {}
    for (part, options), pick in reversed(list(zip(useful.items(), picks, strict=True))):
        chosen[part] = int(pick[left])
        left -= -(-(options[chosen[part]][1].nbytes - options[0][1].nbytes) // step)
    return chosen


def _spend(useful: Mapping[str, list[tuple[str, Option]]], chosen: dict[str, int], budget: int) -> None:
    """Raises parts, in place, where a byte saves most, until no step fits into the budget."""
    left = budget - sum(useful[part][index][1].nbytes for part, index in chosen.items())
    while steps := [step for part, index in chosen.items() for step in _steps(useful[part], part, index, left)]:
        _, part, index, nbytes = max(steps, key=lambda step: step[0])
        chosen[part] = index
        left -= nbytes


def _steps(options: list[tuple[str, Option]], part: str, index: int, left: int) -> list[tuple[float, str, int, int]]:
    """(damage saved per byte, part, larger option, more bytes) that fit."""
    held = options[index][1]
    larger = [(n, option) for n, (_, option) in enumerate(options) if n > index and option.nbytes - held.nbytes <= left]
    return [
        ((held.damage - option.damage) / (option.nbytes - held.nbytes), part, n, option.nbytes - held.nbytes)
        for n, option in larger
    ]
