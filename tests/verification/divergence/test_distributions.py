"""Distributions a few rows at a time against torch's functions of whole batches."""

import pytest
import torch

from verification.divergence import distributions as module
from verification.divergence.distributions import agreement, distributions, divergences, top5

pytestmark = pytest.mark.arithmetic


@pytest.mark.parametrize("size", [5, 17, 250, 2048, 50_257])
def test_the_five_largest(size: int) -> None:
    rows = torch.randn(40, size, generator=torch.Generator().manual_seed(size))
    rows[0, :5] = torch.tensor([9.0, 13.0, 10.0, 12.0, 11.0])  # neighbors
    rows[1, torch.arange(0, size, max(1, size // 5))[:5]] = 9.0 + torch.arange(5.0)
    assert torch.equal(top5(rows), rows.topk(5, dim=-1).indices)


def test_kl_and_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CACHED", 3 * 300)  # three rows at a time, which do not divide them
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 300, (2, 7), generator=random)
    logits = torch.randn(2, 2, 7, 300, generator=random) * 3
    p, q = (x.log_softmax(-1) for x in logits)
    ours, theirs = (distributions(x.clone(), ids) for x in logits)
    expected = torch.nn.functional.kl_div(q.double(), p.double(), log_target=True, reduction="none").sum(-1).flatten()
    torch.testing.assert_close(divergences(ours, theirs).double(), expected, rtol=1e-4, atol=1e-6)
    assert divergences(ours, ours).tolist() == [0.0] * 14
    best, others = p.topk(5).indices.flatten(0, 1), q.topk(5).indices.flatten(0, 1)
    shared = sum(len(set(a) & set(b)) for a, b in zip(best.tolist(), others.tolist(), strict=True))
    assert agreement(ours, theirs) == (float((best[:, 0] == others[:, 0]).sum()), shared / 5)
    loss = torch.nn.functional.cross_entropy(logits[0, :, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(ours.loss, loss)
