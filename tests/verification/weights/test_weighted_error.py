"""What importance-weighted rounding gives up is sound where that importance is counted, and damage is not."""

from dataclasses import replace

import pytest
import torch

from tests.verification.reading.test_plain_rounding import by_llama, heavy_tailed
from verification.reading.plain_rounding import layout_of_ggml
from verification.weights.format_error import LIMITS, loosened, measure
from verification.weights.weighted_error import unexplained

KINDS = ("Q6_K", "Q5_0", "Q4_K", "Q4_0", "IQ4_NL", "Q3_K")


def steep() -> torch.Tensor:
    """A few channels carry nearly everything, as those of real models do."""
    importance = torch.rand(512, generator=torch.Generator().manual_seed(1)) ** 4 * 1e-3
    importance[::37] = 1.0
    return importance


@pytest.mark.parametrize("kind", KINDS)
def test_what_llama_cpp_weighs_is_sound(kind: str) -> None:
    weight, importance = heavy_tailed(64, 512), steep()
    held, limit = by_llama(weight, kind, importance), LIMITS[kind]
    layout = layout_of_ggml(kind)
    assert layout is not None
    assert unexplained(held, weight, replace(limit, block=limit.block / 2), layout, importance) is None
    assert not measure(held, weight, loosened(limit, "weighted")).exceeds(loosened(limit, "weighted"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0])
def test_a_block_under_another_scale_is_not(kind: str, factor: float) -> None:
    weight, importance = heavy_tailed(64, 512), steep()
    held, limit = by_llama(weight, kind, importance), LIMITS[kind]
    held[5, 64:96] *= factor
    layout = layout_of_ggml(kind)
    assert layout is not None
    found = unexplained(held, weight, limit, layout, importance)
    assert found is not None
    assert (found.row, 64 <= found.column < 96) == (5, True)
