"""The refit of gate and up projections against the penalized regression written down literally."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from pruning.healing import gate_up
from pruning.healing.gate_up import refit_gate_up
from pruning.healing.seen import Routed, Seen, by_expert

HIDDEN, INNER, EXPERTS, TOKENS, DAMPING = 6, 5, 2, 80, 0.3
LAYOUTS = ["side by side", "alternating, transposed, with biases", "no gate"]


def experts(layout: str) -> Any:
    """What the refit needs of transformers' experts module."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    def gated(values: torch.Tensor) -> torch.Tensor:
        gate, up = (values[..., ::2], values[..., 1::2]) if alternating else values.chunk(2, -1)
        return functional.silu(gate) * up

    alternating, has_gate = layout.startswith("alternating"), layout != "no gate"
    width = 2 * INNER if has_gate else INNER
    first, down = normal(EXPERTS, width, HIDDEN), normal(EXPERTS, HIDDEN, INNER)
    return SimpleNamespace(
        num_experts=EXPERTS,
        has_gate=has_gate,
        has_bias=alternating,
        is_transposed=alternating,
        is_concatenated=not alternating,
        down_proj=down.mT.contiguous() if alternating else down,
        _apply_gate=gated,
        act_fn=functional.gelu,
        **{
            "gate_up_proj" if has_gate else "up_proj": first.mT.contiguous() if alternating else first,
            "gate_up_proj_bias": normal(EXPERTS, width),
        },
    )


def first(module: Any) -> torch.Tensor:
    """Of expert 1: [out, hidden], a copy in float64."""
    weight = (module.gate_up_proj if module.has_gate else module.up_proj)[1]
    return (weight.mT if module.is_transposed else weight).double()


def given(module: Any, weight: torch.Tensor, row: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """What expert 1 gives for one token, float64 [hidden], with other first projections."""
    products = weight @ row.double() + (module.gate_up_proj_bias[1].double() if module.has_bias else 0)
    down = module.down_proj[1].mT if module.is_transposed else module.down_proj[1]
    return gate.double() * (down.double() @ (module._apply_gate if module.has_gate else module.act_fn)(products))


def seen_by(module: Any, scale: float = 1.0) -> tuple[Seen, Routed]:
    """Half the tokens are expert 1's, from which as much is asked as comes of other projections, and noise besides."""
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(TOKENS, HIDDEN, generator=draw)
    inputs[:, 0] *= 20  # as a channel of real hidden states does
    index = (torch.arange(TOKENS) % EXPERTS)[:, None]
    gates = torch.rand(TOKENS, 1, generator=draw)
    other = first(module) + 0.1 * torch.randn(first(module).shape, generator=draw)
    change = [
        given(module, other, x, g) - given(module, first(module), x, g) for x, g in zip(inputs, gates, strict=True)
    ]
    missing = scale * (torch.stack(change).float() + 0.1 * torch.randn(TOKENS, HIDDEN, generator=draw))
    seen = Seen(inputs, index, gates, missing, torch.zeros(TOKENS, dtype=torch.int64))
    return seen, list(by_expert(seen, EXPERTS))[1]


def penalized(module: Any, seen: Seen, own: Routed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """J [tokens * hidden, parameters] by automatic differentiation, r, and the penalty's diagonal [parameters]."""
    weight, rows = first(module), []
    scales, moments = torch.zeros(len(weight), dtype=torch.float64), torch.zeros(HIDDEN, HIDDEN, dtype=torch.float64)
    down = (module.down_proj[1].mT if module.is_transposed else module.down_proj[1]).double()
    for token in own.tokens.tolist():
        x, gate = seen.inputs[token].double(), seen.gates[token]
        jacobian = torch.func.jacrev(lambda w, x=x, gate=gate: given(module, w, x, gate))(weight)
        rows.append(jacobian.flatten(1))
        # d output / d w_jk = g f'_j W_.j x_k: its norm over the outputs, without x
        squares = jacobian.square().sum(0).sum(1) / x.square().sum()
        scales += squares
        moments += squares.sum() * torch.outer(x, x)
    assert len(down) == HIDDEN
    noise = DAMPING * (moments / scales.sum()).diagonal().mean()
    penalty = (noise * scales.clamp(min=0.01 * scales.mean()))[:, None].expand(-1, HIDDEN).flatten()
    return torch.cat(rows), seen.missing[own.tokens].double().flatten(), penalty


def cost(change: torch.Tensor, jacobian: torch.Tensor, wanted: torch.Tensor, penalty: torch.Tensor) -> float:
    return float((wanted - jacobian @ change).square().sum() + (penalty * change.square()).sum())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_with_steps_enough_it_is_the_penalized_regression(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = experts(layout)
    seen, own = seen_by(module)
    jacobian, wanted, penalty = penalized(module, seen, own)
    expected = torch.linalg.solve(jacobian.mT @ jacobian + penalty.diag(), jacobian.mT @ wanted)
    before = first(module)
    monkeypatch.setattr(gate_up, "STEPS", 60)
    refit_gate_up(module, 1, own, seen, DAMPING, torch.float32)
    torch.testing.assert_close((first(module) - before).flatten(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_few_steps_come_near_to_that(layout: str) -> None:
    module = experts(layout)
    seen, own = seen_by(module)
    jacobian, wanted, penalty = penalized(module, seen, own)
    best = torch.linalg.solve(jacobian.mT @ jacobian + penalty.diag(), jacobian.mT @ wanted)
    before = first(module)
    refit_gate_up(module, 1, own, seen, DAMPING, torch.float32)
    none, least, found = (
        cost(change, jacobian, wanted, penalty)
        for change in (torch.zeros_like(best), best, (first(module) - before).flatten())
    )
    assert least < 0.7 * none
    assert (none - found) / (none - least) > 0.9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_missing_afterwards_is_that_of_the_new_weights(layout: str) -> None:
    module = experts(layout)
    seen, own = seen_by(module)
    before, missing = first(module), seen.missing.clone()
    refit_gate_up(module, 1, own, seen, DAMPING, torch.bfloat16)
    for token in range(TOKENS):
        x, gate = seen.inputs[token], seen.gates[token]
        more = given(module, first(module), x, gate) - given(module, before, x, gate) if token in own.tokens else 0
        torch.testing.assert_close(seen.missing[token].double(), missing[token].double() - more, rtol=1e-4, atol=1e-3)
    assert torch.equal(first(module), first(module).bfloat16().double())
    assert seen.missing[own.tokens].norm() < 0.9 * missing[own.tokens].norm()


def test_where_the_step_leads_astray_they_stay() -> None:
    """What is asked is so far off that the activation is nothing like its tangent there."""
    module = experts("side by side")
    seen, own = seen_by(module, scale=1e4)
    before, missing = module.gate_up_proj.clone(), seen.missing.clone()
    refit_gate_up(module, 1, own, seen, DAMPING, torch.float32)
    assert torch.equal(module.gate_up_proj, before)
    torch.testing.assert_close(seen.missing, missing, rtol=0, atol=1e-4 * float(missing.norm()))


def test_many_tokens_are_more_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is that of every second token, and what all of them miss is right."""
    module, again = experts("side by side"), experts("side by side")
    seen, own = seen_by(module)
    monkeypatch.setattr(gate_up, "TOKENS", len(own.tokens) // 2)
    refit_gate_up(module, 1, own, seen, DAMPING, torch.float32)
    fewer = Routed(own.tokens[::2], own.gates[::2], ())
    other, _ = seen_by(again)
    refit_gate_up(again, 1, fewer, other, DAMPING, torch.float32)
    torch.testing.assert_close(first(module), first(again), rtol=1e-5, atol=1e-6)
    skipped = own.tokens[1::2]
    assert not torch.equal(seen.missing[skipped], other.missing[skipped])
