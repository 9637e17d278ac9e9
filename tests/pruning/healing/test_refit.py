"""The refit of one layer against the regression written down literally, token by token."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from pruning.healing.block import routed_outputs
from pruning.healing.refit import DAMPINGS, SWEEPS, TOGETHER, refit
from pruning.healing.seen import Seen

HIDDEN, INNER, EXPERTS, TOP_K, TOKENS, KINDS = 6, 5, 4, 2, 240, 3
DOWN = {"down_proj": torch.float32}
BOTH = dict.fromkeys(("down_proj", "gate_up_proj"), torch.bfloat16)


def experts(seed: int, *, transposed: bool = False) -> Any:
    """What the refit needs of transformers' experts module: SwiGLU."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    def gated(values: torch.Tensor) -> torch.Tensor:
        gate, up = values.chunk(2, -1)
        return functional.silu(gate) * up

    up, down = normal(EXPERTS, 2 * INNER, HIDDEN), normal(EXPERTS, HIDDEN, INNER)
    return SimpleNamespace(
        num_experts=EXPERTS,
        has_gate=True,
        has_bias=False,
        is_concatenated=True,
        is_transposed=transposed,
        gate_up_proj=up.mT.contiguous() if transposed else up,
        down_proj=down.mT.contiguous() if transposed else down,
        _apply_gate=gated,
    )


def seen_by(module: Any, *, noise: float, inner: float = 0.0, seed: int = 1) -> Seen:
    """Outputs of other down projections are to be given, and by `inner` of other gates and ups, as far as noise, which
    is different for each token, allows."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(TOKENS, HIDDEN, generator=draw)
    index = torch.rand(TOKENS, EXPERTS, generator=draw).topk(TOP_K).indices
    gates = torch.rand(TOKENS, TOP_K, generator=draw)
    wanted = SimpleNamespace(**vars(module))
    wanted.down_proj = module.down_proj + 0.5 * torch.randn(module.down_proj.shape, generator=draw)
    wanted.gate_up_proj = module.gate_up_proj + inner * torch.randn(module.gate_up_proj.shape, generator=draw)
    missing = routed_outputs(wanted, inputs, index, gates) - routed_outputs(module, inputs, index, gates)
    missing += noise * torch.randn(missing.shape, generator=draw)
    return Seen(inputs, index, gates, missing, torch.arange(TOKENS) % KINDS)


def rows_of(module: Any, seen: Seen, expert: int) -> tuple[list[int], torch.Tensor]:
    """Tokens of an expert, and what its down projection reads of each, times the gate."""
    tokens, rows = [], []
    for token in range(TOKENS):
        for place in range(TOP_K):
            if seen.index[token, place] == expert:
                up = module.gate_up_proj[expert].mT if module.is_transposed else module.gate_up_proj[expert]
                tokens.append(token)
                rows.append(module._apply_gate(up @ seen.inputs[token]) * seen.gates[token, place])
    return tokens, torch.stack(rows).double()


def ridge(rows: torch.Tensor, missing: torch.Tensor, damping: float) -> torch.Tensor:
    """As least squares over the rows and, for the damping, one more row for each channel."""
    weight = (damping * rows.square().sum(0).mean()).sqrt()
    extended = torch.cat([rows, weight * torch.eye(INNER, dtype=torch.float64)])
    wanted = torch.cat([missing.double(), torch.zeros(INNER, HIDDEN, dtype=torch.float64)])
    return torch.linalg.lstsq(extended, wanted).solution.T


def literal_damping(module: Any, seen: Seen) -> tuple[float, float]:
    """The damping of least squared error on each kind left out, and that error relative to no fit."""
    errors = dict.fromkeys(DAMPINGS, 0.0)
    unfitted = 0.0
    for expert in range(EXPERTS):
        tokens, rows = rows_of(module, seen, expert)
        missing, kinds = seen.missing[tokens].double(), seen.kinds[tokens]
        for kind in range(KINDS):
            out = kinds == kind
            unfitted += float(missing[out].square().sum())
            for damping in DAMPINGS:
                change = ridge(rows[~out], missing[~out], damping)
                errors[damping] += float((missing[out] - rows[out] @ change.T).square().sum())
    best = min(errors, key=lambda damping: errors[damping])
    return best, errors[best] / unfitted


@pytest.mark.parametrize("transposed", [False, True])
def test_it_is_ridge_regression_expert_after_expert(transposed: bool) -> None:
    module = experts(0, transposed=transposed)
    seen = seen_by(module, noise=1.0)
    alone, error = literal_damping(module, seen)
    damping = TOGETHER * alone
    expected = [(d.mT if transposed else d).double() for d in module.down_proj.clone()]
    missing = seen.missing.clone()
    for _ in range(SWEEPS):
        for expert in range(EXPERTS):
            tokens, rows = rows_of(module, seen, expert)
            change = ridge(rows, missing[tokens], damping)
            expected[expert] += change
            missing[tokens] -= (rows @ change.T).float()
    before = float(seen.missing.norm())
    fit = refit(module, seen, DOWN)
    assert fit.damping == damping
    assert fit.held_back == pytest.approx(error, rel=1e-6)
    assert (fit.before, fit.after) == pytest.approx((before, float(missing.norm())), rel=1e-5)
    assert fit.after < 0.9 * before
    for found, wanted in zip(module.down_proj, expected, strict=True):
        torch.testing.assert_close((found.mT if transposed else found).double(), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_missing_is_that_of_the_stored_weights() -> None:
    """Weights are rounded to what the checkpoint holds, and the next expert is fitted to what that leaves."""
    module = experts(2)
    module.gate_up_proj.copy_(module.gate_up_proj.bfloat16())
    seen = seen_by(module, noise=0.1)
    wanted = seen.missing + routed_outputs(module, seen.inputs, seen.index, seen.gates)
    refit(module, seen, BOTH)
    for weights in (module.down_proj, module.gate_up_proj):
        assert torch.equal(weights, weights.bfloat16().float())
    left = wanted - routed_outputs(module, seen.inputs, seen.index, seen.gates)
    torch.testing.assert_close(seen.missing, left, rtol=0, atol=1e-4)


def test_where_no_fit_carries_over_to_other_text_the_layer_stays() -> None:
    """What is missing follows the inputs in each kind of text, and in every kind another way."""
    module = experts(3)
    seen = seen_by(module, noise=0.0)
    for kind, sign in enumerate((1.0, -1.0, 0.0)):
        seen.missing[seen.kinds == kind] *= sign
    before = module.down_proj.clone(), module.gate_up_proj.clone()
    fit = refit(module, seen, BOTH)
    assert fit.damping is None
    assert fit.after == fit.before
    assert torch.equal(module.down_proj, before[0])
    assert torch.equal(module.gate_up_proj, before[1])


def test_an_expert_that_no_token_reached_stays() -> None:
    module = experts(4)
    seen = seen_by(module, noise=0.1)
    seen = Seen(seen.inputs, seen.index % (EXPERTS - 1), seen.gates, seen.missing, seen.kinds)
    before = module.down_proj.clone(), module.gate_up_proj.clone()
    assert refit(module, seen, BOTH).damping is not None
    for weights, was in zip((module.down_proj, module.gate_up_proj), before, strict=True):
        assert torch.equal(weights[-1], was[-1])
        assert not torch.equal(weights[0], was[0])


def test_where_gate_and_up_projections_are_refitted_less_is_missing() -> None:
    fits = []
    for stored in (DOWN, dict.fromkeys(BOTH, torch.float32)):
        module = experts(5)
        fits.append(refit(module, seen_by(module, noise=0.3, inner=0.3), stored))
    assert fits[0].damping == fits[1].damping
    assert fits[1].after < 0.97 * fits[0].after
