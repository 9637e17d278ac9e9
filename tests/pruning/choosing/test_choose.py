"""Which experts stay, on numbers small enough to see."""

from dataclasses import replace

import pytest
import torch

from pruning.anatomy import Anatomy
from pruning.choosing.choose import by_layer, most_salient, over_all_layers
from sixfold.errors import UsageError

ONE = Anatomy(4, 1, 1, 1, (0, 1), {}, (("num_experts",),), False, ())
GROUPED = replace(ONE, groups=2)
FREE = replace(ONE, per_layer=True)


def saliency(*rows: list[float]) -> dict[int, torch.Tensor]:
    return {layer: torch.tensor(row, dtype=torch.float64) for layer, row in enumerate(rows)}


def test_the_most_salient_stay_in_their_order() -> None:
    assert most_salient(torch.tensor([3.0, 1.0, 4.0, 1.5]), 2) == (0, 2)


def test_of_equals_the_first_stays() -> None:
    assert most_salient(torch.tensor([1.0, 2.0, 1.0, 1.0]), 3) == (0, 1, 2)


def test_protected_experts_stay_first() -> None:
    assert most_salient(torch.tensor([3.0, 1.0, 4.0, 1.5]), 2, {1}) == (1, 2)


def test_each_layer_is_judged_by_itself() -> None:
    assert by_layer(ONE, saliency([1, 2, 3, 4], [40, 30, 20, 10]), 2, {}) == {0: (2, 3), 1: (0, 1)}


def test_each_group_keeps_as_many() -> None:
    """The two best are both in the second group, and yet one of the first stays."""
    assert by_layer(GROUPED, saliency([1, 2, 9, 8], [1, 2, 9, 8]), 2, {1: {3}}) == {0: (1, 2), 1: (1, 3)}


def test_a_global_budget_goes_where_saliency_is() -> None:
    """In the second layer all experts matter the same; in the first one does, and takes as little as top-k."""
    chosen = over_all_layers(FREE, saliency([97, 1, 1, 1], [1, 1, 1, 1]), 2, {})
    assert chosen == {0: (0,), 1: (0, 1, 2)}


def test_a_global_budget_needs_a_count_for_each_layer() -> None:
    with pytest.raises(UsageError, match=r"config.json has one for all \(num_experts\); leave --budget out"):
        over_all_layers(ONE, saliency([1, 2, 3, 4], [1, 2, 3, 4]), 2, {})
