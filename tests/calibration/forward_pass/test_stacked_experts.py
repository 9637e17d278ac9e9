"""A model that stores all experts of a layer as one array (gpt-oss): what its Linears read and its experts give."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibration.forward_pass.batches import batched
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.observation import Observation
from calibration.forward_pass.observe import observed
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.bf16_products import fast_products
from sixfold.runner.causal_attention import fast_causal_attention
from sixfold.runner.whole_model import load_model
from tests.calibration.forward_pass.test_observe import ids_for, pass_over
from tests.calibration.silent import silent
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")


def test_starved_stacked_experts_are_not_widened(tmp_path: Path) -> None:
    """Where a stack is not split, nothing is gathered of what its experts read, so there is nothing to widen; the pass
    goes on."""
    source = open_source(make_family("gpt_oss", tmp_path / "model")).as_stored
    profile = Calibration(samples=1, length=8, starved="all_experts")
    work = tmp_path / "work"
    reached = run_pass(source, batched(ids_for(source, 1, 8), 0), profile, work, key="", device=CPU, progress=silent)
    found = load_file(work / "layer-00000.safetensors")
    assert int(found["model.layers.0.mlp.experts/routed"].sum()) == 8 * source.architecture.experts_per_token
    assert not any("wide_" in key for name in reached.files for key in load_file(work / name))


def test_statistics_of_gpt_oss_are_those_of_a_plain_forward(tmp_path: Path) -> None:
    """Hooks in a forward of the whole model, and its experts' definition, token by token.

    The forward is the pass's, kernel by kernel, so that routers choose alike on every processor: in BF16 many scores
    lie a rounding apart.
    """
    folder = make_family("gpt_oss", tmp_path / "model")
    source = open_source(folder)
    ids = ids_for(source)
    found = pass_over(source, ids, tmp_path / "work")
    model = load_model(source, dtype=torch.bfloat16, device=CPU)
    stacks = source.as_stored.architecture.stacks
    unread = Observation((), ranks=torch.arange(ids.numel()), rows=1, device=CPU, stacks=stacks)
    read: dict[str, torch.Tensor] = {}
    given: dict[int, dict[str, Any]] = {}
    squares: dict[int, torch.Tensor] = {}

    def remember(name: str) -> Any:
        return lambda module, args, out: read.__setitem__(name, args[0].reshape(-1, args[0].shape[-1]).float())

    def literal(layer: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor) -> None:
            hidden, index, weights = (*args, *kwargs.values())[:3]
            hidden = hidden.reshape(-1, hidden.shape[-1])
            norms: dict[int, list[tuple[float, float]]] = {expert: [] for expert in range(4)}
            squares[layer] = torch.zeros(2, 4, 1024)
            for token in range(len(hidden)):
                for expert, gate in zip(index[token].tolist(), weights[token].tolist(), strict=True):
                    inner = module._apply_gate(
                        hidden[token] @ module.gate_up_proj[expert] + module.gate_up_proj_bias[expert]
                    )
                    output = inner @ module.down_proj[expert] + module.down_proj_bias[expert]
                    squares[layer][0, expert, : len(hidden[token])] += hidden[token].float().square()
                    squares[layer][1, expert, : len(inner)] += inner.float().square()
                    norms[expert].append((gate, float(output.float().norm())))
            given[layer] = norms

        return hook

    for number, layer in enumerate(model.model.layers):
        for name in ("q_proj", "o_proj"):
            module = getattr(layer.self_attn, name)
            module.register_forward_hook(remember(f"model.layers.{number}.self_attn.{name}"))
        layer.mlp.experts.register_forward_hook(literal(number), with_kwargs=True)
    with torch.inference_mode(), fast_products(CPU), fast_causal_attention(CPU), observed(model, unread):
        model(input_ids=ids, use_cache=False)
    sites = {linear.name: linear.site for linear in source.architecture.linears}
    for name, want in read.items():
        site = sites[name]
        assert found[f"{site}/count"] == len(want)
        # The same BF16 values, summed in float32 in another order.
        torch.testing.assert_close(found[f"{site}/sum_sq"], want.square().sum(0), rtol=1e-5, atol=0)
        torch.testing.assert_close(found[f"{site}/sum_abs"], want.abs().sum(0), rtol=1e-5, atol=0)
    for number, norms in given.items():
        prefix = f"model.layers.{number}.mlp.experts"
        for place, part in enumerate(("gate_proj", "down_proj")):
            want = squares[number][place]
            held = found[f"{prefix}.*.{part}/sum_sq"]
            torch.testing.assert_close(held, want[:, : held.shape[1]], rtol=2**-6, atol=1e-4)
        for expert, pairs in norms.items():
            assert int(found[f"{prefix}/routed"][expert]) == len(pairs)
            for key, want_sum in (
                ("gate_sum", sum(gate for gate, _ in pairs)),
                ("norm_sum", sum(norm for _, norm in pairs)),
                ("saliency_sum", sum(gate * norm for gate, norm in pairs)),
            ):
                # An expert's inner values are rounded to BF16 here and there: 2^-8 of each, and less of a norm.
                torch.testing.assert_close(float(found[f"{prefix}/{key}"][expert]), want_sum, rtol=2**-8, atol=0)
