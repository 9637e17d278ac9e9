"""What experts have in common is told from what is each one's own, and chance from both."""

import torch

from calibration.common_moments import common_moments, shared
from sixfold.statistics.moments import share_of_chance, unpack

EXPERTS, CHANNELS = 8, 32


def moments(mixings: torch.Tensor, tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over `tokens` rows for each expert, whose channels are mixed by mixings [EXPERTS or 1, C, C]."""
    rows = torch.randn(EXPERTS, tokens, CHANNELS, generator=torch.Generator().manual_seed(seed)) @ mixings
    return rows.mT @ rows, torch.full((EXPERTS,), tokens)


def mixing(number: int) -> torch.Tensor:
    return torch.randn(number, CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(5))


def test_experts_that_read_the_same_have_it_in_common() -> None:
    assert shared(*moments(mixing(1), 5000)) > 0.97


def test_experts_whose_channels_mean_different_things_have_nothing_in_common() -> None:
    assert shared(*moments(mixing(EXPERTS), 5000)) < 0.1


def test_few_tokens_do_not_look_like_something_in_common() -> None:
    found = [shared(*moments(mixing(EXPERTS), 40, seed)) for seed in range(5)]
    assert sum(found) / len(found) < 0.15


def test_less_is_chance_the_more_tokens_there_are() -> None:
    common = torch.eye(CHANNELS)
    (sums, _), few = moments(mixing(EXPERTS), 4000), moments(mixing(EXPERTS), 8)[0]
    shares = [share_of_chance(sums[0] / 4000, common, 4000), share_of_chance(few[0] / 8, common, 8)]
    assert shares[0] < 0.02 < 0.2 < shares[1] <= 1
    assert share_of_chance(torch.zeros(CHANNELS, CHANNELS), common, 0) == 1


def test_the_common_moments_keep_every_mean_square() -> None:
    sums, count = moments(mixing(EXPERTS), 500)
    count[3] = 0
    sums[3] = 0
    found = common_moments(sums, count)
    diagonal = sums.sum(0).diagonal()
    whole = unpack(found["moments_common"], diagonal)
    assert torch.equal(whole.diagonal(), diagonal)
    off = ~torch.eye(CHANNELS, dtype=torch.bool)
    expected = sums.sum(0) * shared(sums, count)
    assert torch.allclose(whole[off], expected[off], atol=1e-3 * float(diagonal.max()))
    assert found["moments_chance"][3] == 1
