"""The choice against every possible one, and the budget."""

import random
from itertools import product

import pytest

from exporters.mix.choose import Option, choose, smallest

SIZES = (26, 34, 42, 45, 55, 66, 85)
"""Of seven types, in any unit."""


def parts(seed: int, number: int) -> dict[str, dict[str, Option]]:
    """Damage falls about fourfold with each bit, by a factor of the part's own, with some noise."""
    draw = random.Random(seed)
    found = {}
    for index in range(number):
        weights, price = draw.choice([512, 2048, 8192]), draw.lognormvariate(0, 1)
        found[f"part {index}"] = {
            f"type {size}": Option(weights * size, price * weights * 4.0 ** (-size / 10) * draw.uniform(0.8, 1.25))
            for size in SIZES
        }
    return found


def outcome(options: dict[str, dict[str, Option]], chosen: dict[str, str]) -> tuple[int, float]:
    held = [options[part][kind] for part, kind in chosen.items()]
    return sum(option.nbytes for option in held), sum(option.damage for option in held)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_within_the_budget_does_less_damage(seed: int) -> None:
    options = parts(seed, 5)
    budget = int(smallest(options) * 1.6)
    nbytes, damage = outcome(options, choose(options, budget))
    every = (outcome(options, dict(zip(options, kinds, strict=True))) for kinds in product(*options.values()))
    least = min(damage for nbytes, damage in every if nbytes <= budget)
    assert nbytes <= budget
    assert damage == pytest.approx(least)


def test_a_model_of_many_parts_fills_its_budget_in_seconds() -> None:
    options = parts(7, 62 * 9)
    for share in (1.05, 1.8):
        budget = int(smallest(options) * share)
        nbytes, _ = outcome(options, choose(options, budget))
        assert 0.998 * budget <= nbytes <= budget


def test_what_costs_more_and_does_more_damage_is_never_chosen() -> None:
    options = {"one": {"small": Option(10, 1.0), "worse": Option(20, 2.0), "best": Option(30, 0.5)}}
    assert choose(options, 10) == choose(options, 29) == {"one": "small"}
    assert choose(options, 30) == {"one": "best"}


def test_a_budget_below_the_smallest_types_is_refused() -> None:
    with pytest.raises(ValueError, match="30 bytes at least"):
        choose({"one": {"a": Option(10, 1.0)}, "two": {"a": Option(20, 1.0)}}, 29)
