"""The fused MoE block on a GPU computes and measures what a literal float32 loop over the experts does."""

from typing import Any

import pytest
import torch
from torch.nn import functional

pytestmark = pytest.mark.gpu

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def block(
    tokens: int, experts: int, top_k: int, hidden: int, intermediate: int, skew: float = 0.0, avoid: int | None = None
) -> Inputs:
    """hidden, index, weights, gate_up, down; with `skew` some experts get most tokens, `avoid` gets none."""
    generator = torch.Generator("cuda").manual_seed(tokens + experts)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", generator=generator)

    logits = normal(tokens, experts) + skew * normal(experts)
    if avoid is not None:
        logits[:, avoid] = -torch.inf
    gates, index = logits.softmax(1).topk(top_k)
    gate_up = (normal(experts, 2 * intermediate, hidden) * hidden**-0.5).bfloat16()
    down = (normal(experts, hidden, intermediate) * intermediate**-0.5).bfloat16()
    return normal(tokens, hidden).bfloat16(), index, gates, gate_up, down


def literal(
    hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The output and each statistic from its definition, an expert at a time, all in float32."""
    experts, width, inner_width = down.shape
    output = torch.zeros(len(hidden), width, device="cuda")
    found: dict[str, list[torch.Tensor]] = {}

    def note(name: str, value: torch.Tensor) -> None:
        found.setdefault(name, []).append(value)

    def note_site(name: str, rows: torch.Tensor) -> None:
        note(name + ".sum_sq", rows.square().sum(0))
        note(name + ".sum_abs", rows.abs().sum(0))
        note(name + ".abs_max", torch.cat([rows.abs(), rows.new_zeros(1, rows.shape[1])]).amax(0))

    for expert in range(experts):
        tokens, slots = (index == expert).nonzero(as_tuple=True)
        rows, gates = hidden[tokens].float(), weights[tokens, slots].float()
        gate, up = (rows @ gate_up[expert].float().T).split(inner_width, dim=1)
        inner = functional.silu(gate) * up
        out = inner @ down[expert].float().T
        output.index_add_(0, tokens, out * gates[:, None])
        norms = out.norm(dim=1)
        note("counts", torch.tensor(len(tokens), device="cuda"))
        note_site("up", rows)
        note_site("down", inner)
        note("gate_sum", gates.sum())
        note("norm_sum", norms.sum())
        note("norm_sq_sum", norms.square().sum())
        note("saliency_sum", (gates * norms).sum())
        note("norm_max", torch.cat([norms, norms.new_zeros(1)]).amax())
        note("output_max", torch.cat([out.abs().flatten(), norms.new_zeros(1)]).amax())
        note("coactivation", torch.bincount(index[tokens].flatten(), minlength=experts))
    return {"output": output} | {name: torch.stack(values) for name, values in found.items()}


def measured(inputs: Inputs) -> dict[str, torch.Tensor]:
    from calibration.kernels.triton_experts import ExpertPass, routed_experts

    output, passed = routed_experts(*inputs)
    found: dict[str, Any] = {name: getattr(passed, name) for name in ExpertPass.__dataclass_fields__}
    sites = {f"{side}.{name}": tensor for side in ("up", "down") for name, tensor in vars(found.pop(side)).items()}
    return {"output": output} | found | sites


def assert_measures(inputs: Inputs) -> None:
    """Sums of the up input differ by float32's order only; what a product made, by two roundings to BF16, squared."""
    ours, theirs = measured(inputs), literal(*inputs)
    for name, expected in theirs.items():
        if expected.dtype == torch.int64:
            assert torch.equal(ours[name], expected), name
        else:
            error = (ours[name].double() - expected.double()).norm() / expected.double().norm()
            assert error < (1e-6 if name.startswith(("up", "gate")) else 8e-3), (name, float(error))
    assert torch.equal(ours["up.abs_max"], theirs["up.abs_max"])


@pytest.mark.parametrize(
    "shape",
    [
        (300, 6, 2, 128, 64),
        (1000, 5, 3, 272, 144),
        (2000, 8, 2, 1536, 768),
        (700, 160, 6, 256, 192),
        (5, 9, 4, 48, 16),
        (1, 4, 2, 16, 16),
    ],
    ids=str,
)
def test_equals_the_literal_block(shape: tuple[int, int, int, int, int]) -> None:
    assert_measures(block(*shape))


def test_one_expert_per_token() -> None:
    assert_measures(block(517, 7, 1, 144, 80))


def test_experts_without_tokens_measure_nothing() -> None:
    inputs = block(400, 6, 2, 128, 64, avoid=3)
    assert_measures(inputs)
    ours = measured(inputs)
    for name in ("counts", "up.sum_sq", "down.abs_max", "norm_sum", "saliency_sum", "norm_max", "output_max"):
        assert not ours[name][3].any(), name


def test_uneven_experts() -> None:
    inputs = block(3000, 16, 4, 256, 128, skew=2.0)
    counts = torch.bincount(inputs[1].flatten(), minlength=16)
    assert counts.max() > 10 * counts.min()
    assert_measures(inputs)


@pytest.mark.parametrize("rows", [31, 32, 33, 128, 129, 160, 161, 256, 257, 288, 289, 544, 545])
def test_rows_at_the_edges_of_tiles(rows: int) -> None:
    """One expert gets exactly that many tokens; its neighbors get others, whose rows must not be taken for its own."""
    hidden, index, weights, gate_up, down = block(rows + 40, 3, 1, 128, 64)
    index = torch.cat([torch.zeros(17), torch.ones(rows), torch.full((23,), 2)]).long().cuda()[:, None]
    assert_measures((hidden, index, weights, gate_up, down))


def test_infinite_activations_stay_with_their_expert() -> None:
    hidden, index, weights, gate_up, down = block(600, 4, 1, 128, 64)
    hidden[index[:, 0] == 1] = torch.inf
    ours, clean = measured((hidden, index, weights, gate_up, down)), block(600, 4, 1, 128, 64)
    theirs = measured(clean)
    others = index[:, 0] != 1
    assert torch.equal(ours["output"][others], theirs["output"][others])
    assert ours["up.abs_max"][1].isinf().all()
    assert torch.equal(ours["down.sum_sq"][[0, 2, 3]], theirs["down.sum_sq"][[0, 2, 3]])


def test_order_is_a_stable_sort_by_expert() -> None:
    inputs = block(777, 10, 3, 64, 32)
    assert torch.equal(measured(inputs)["order"], inputs[1].flatten().sort(stable=True).indices)


def test_inner_rows_are_what_the_sums_were_taken_of() -> None:
    ours = measured(block(900, 5, 2, 256, 128))
    for expert, rows in enumerate(ours["inner"].float().split(ours["counts"].tolist())):
        torch.testing.assert_close(ours["down.sum_abs"][expert], rows.abs().sum(0), rtol=1e-5, atol=1e-5)
        assert torch.equal(ours["down.abs_max"][expert], rows.abs().amax(0))


def test_same_input_same_bits() -> None:
    inputs = block(3000, 16, 4, 512, 256, skew=1.0)
    first, second = measured(inputs), measured(inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_host_never_waits() -> None:
    inputs = block(500, 8, 2, 128, 64)
    measured(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        measured(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_gates_of_bfloat16() -> None:
    hidden, index, weights, gate_up, down = block(300, 6, 2, 128, 64)
    assert_measures((hidden, index, weights.bfloat16(), gate_up, down))


def test_what_fits() -> None:
    from calibration.kernels.triton_experts import fits

    hidden, _, _, gate_up, down = block(8, 4, 2, 64, 32)
    assert fits(hidden, gate_up, down)
    assert not fits(hidden.float(), gate_up.float(), down.float())
    assert not fits(hidden.cpu(), gate_up.cpu(), down.cpu())
    assert not fits(hidden, gate_up.mT.contiguous().mT, down)
    assert not fits(hidden[:0], gate_up, down)
    assert not fits(hidden[:, :56].contiguous(), gate_up[:, :, :56].contiguous(), down[:, :56].contiguous())
