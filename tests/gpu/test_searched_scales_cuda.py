"""Plain rounding's search by kernels finds what PyTorch's operations find, but for sums in another order."""

import pytest
import torch

from verification.reading import plain_rounding
from verification.reading.plain_rounding import Layout, rounded_plainly

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", ["Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "IQ4_NL", "Q3_K", "Q2_K"])
def test_kernels_round_as_operations_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(500, 1536, device="cuda", generator=draw) * 0.02
    weight *= torch.where(torch.rand(500, 1536, device="cuda", generator=draw) < 0.001, 6.0, 1.0)
    weight[7, 256:512] = 0
    expected = rounded_plainly(weight, Layout(kind))
    monkeypatch.setattr(plain_rounding, "_LARGE", 0)
    found = rounded_plainly(weight, Layout(kind))
    assert not found[7, 256:512].any()
    blocks, others = (((of - weight) ** 2).unflatten(1, (-1, 256)).sum(-1) for of in (found, expected))
    assert float(blocks.sum()) == pytest.approx(float(others.sum()), rel=1e-3)
    assert float((found != expected).float().mean()) < 0.02
