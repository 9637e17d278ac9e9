"""What a text's first token reads weighs more than that token's share of all tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exporters.rounding.compensate import compensate
from exporters.rounding.factor import factor
from exporters.rounding.nvfp4 import Nvfp4
from sixfold.statistics.input_moments import FIRST, InputMoments

CPU = torch.device("cpu")
CHANNELS = 64
WINDOW = 512


def known(rows: torch.Tensor, first: torch.Tensor) -> InputMoments:
    """Of a site that read `rows`, of which those of first tokens have the mean `first`."""
    statistics: Any = SimpleNamespace(
        has=lambda linear: True,
        place_of=lambda linear: ("site", None),
        site=lambda site, names: {"count": torch.tensor(len(rows))},
        first=lambda site: (first, len(rows) // WINDOW),
        moments=lambda site, device: rows.T @ rows,
    )
    return InputMoments(statistics, CPU)


def known_expert(rows: torch.Tensor, first: torch.Tensor, firsts: int) -> InputMoments:
    """The same of an expert that `rows` were routed to, which has all in common with its layer."""
    statistics: Any = SimpleNamespace(
        has=lambda linear: True,
        place_of=lambda linear: ("experts", 0),
        starved_of=lambda site: (),
        site=lambda site, names: {"count": torch.tensor([len(rows)])},
        first=lambda site, expert: (first, firsts),
        moments=lambda site, experts, prefix, device: (rows.T @ rows)[None],
        common_moments=lambda site, device: rows.T @ rows,
    )
    return InputMoments(statistics, CPU)


def texts(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of which the first token reads nearly the same every time, and like no other: [W, WINDOW, CHANNELS]."""
    rows = torch.randn(16, WINDOW, CHANNELS // 4, generator=generator) @ torch.randn(
        CHANNELS // 4, CHANNELS, generator=generator
    )
    rows[:, 0] = 3 * torch.randn(CHANNELS, generator=generator) + 0.1 * torch.randn(16, CHANNELS, generator=generator)
    return rows.flatten(0, 1), rows[:, 0].mean(0)


def test_the_first_token_has_its_own_weight() -> None:
    rows, first = texts(torch.Generator().manual_seed(0))
    found = known(rows, first).of("k_proj")
    assert found is not None
    others = rows.T @ rows / len(rows) - torch.outer(first, first) / WINDOW
    torch.testing.assert_close(found.mean, others + FIRST * torch.outer(first, first), rtol=1e-4, atol=1e-4)


def test_a_massive_activation_is_held_to_a_share_of_all_others() -> None:
    rows, _ = texts(torch.Generator().manual_seed(0))
    massive = torch.zeros(CHANNELS)
    massive[3] = 1e4
    rows[::WINDOW] = massive
    found = known(rows, massive).of("down_proj")
    assert found is not None
    others = torch.cat([window[1:] for window in rows.split(WINDOW)])
    power = others.square().sum() / len(rows)
    assert found.mean[3, 3] == pytest.approx(float(FIRST * power + others[:, 3].square().sum() / len(rows)), rel=0.05)
    assert found.mean.trace() == pytest.approx(float((1 + FIRST) * power), rel=0.05)


def test_rounding_errs_less_on_it_and_no_more_on_others() -> None:
    generator = torch.Generator().manual_seed(1)
    rows, first = texts(generator)
    weight = torch.randn(32, CHANNELS, generator=generator)

    def errors(moments: torch.Tensor) -> tuple[float, float]:
        form = Nvfp4((448 * 6 / weight.abs().max()).reshape(1))
        off = compensate(weight[None], factor(moments[None]), form).values[0] - weight
        return float((first @ off.T).square().sum()), float((rows @ off.T).square().sum())

    found = known(rows, first).of("k_proj")
    assert found is not None
    before, of_all_before = errors(rows.T @ rows / len(rows))
    after, of_all_after = errors(found.mean)
    assert after < before / 4
    assert of_all_after < 1.1 * of_all_before


def test_an_experts_first_tokens_count_as_they_are_unless_they_are_massive() -> None:
    rows, first = texts(torch.Generator().manual_seed(0))
    found = known_expert(rows, first, len(rows) // WINDOW).of("experts.0.down_proj")
    assert found is not None
    torch.testing.assert_close(found.mean, rows.T @ rows / len(rows))
    massive = torch.zeros(CHANNELS)
    massive[3] = 1e4
    rows[::WINDOW] = massive
    found = known_expert(rows, massive, len(rows) // WINDOW).of("experts.0.down_proj")
    assert found is not None
    power = rows.square().sum() / len(rows) - massive.square().sum() / WINDOW
    assert float(rows.square().sum() / len(rows)) > 100 * float(power)
    own = (
        found.mean
        if found.chance == 0
        else (found.mean - found.chance * rows.T @ rows / len(rows)) / (1 - found.chance)
    )
    assert float(own.trace()) == pytest.approx(float((1 + FIRST) * power), rel=0.1)
