"""What experts give back, against the formula written down token by token."""

from pathlib import Path

import pytest
import torch

from calibration.calibrate import calibrate
from calibration.forward_pass.expert_outputs import ExpertAccumulator
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from tests.calibration.silent import silent

pytestmark = pytest.mark.arithmetic

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
EXPERTS, TOP_K, HIDDEN, TOKENS = 6, 2, 16, 50


@pytest.mark.parametrize("at_once", [True, False])
def test_sums_are_those_of_the_formula_whatever_the_batches(at_once: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.rand(TOKENS, EXPERTS - 1, generator=generator).topk(TOP_K).indices  # nobody chooses the last expert
    gates = torch.rand(TOKENS, TOP_K, generator=generator)
    outputs = torch.randn(TOKENS, TOP_K, HIDDEN, generator=generator)
    accumulator = ExpertAccumulator(EXPERTS, torch.device("cpu"))
    for tokens in torch.arange(TOKENS).split(20):
        flat, order = index[tokens].reshape(-1).sort(stable=True)
        counts = torch.bincount(flat, minlength=EXPERTS)
        sorted_outputs, sorted_gates = outputs[tokens].flatten(0, 1)[order], gates[tokens].reshape(-1)[order]
        if at_once:
            accumulator.add(sorted_outputs, sorted_gates, counts)
        else:
            parts = zip(sorted_outputs.split(counts.tolist()), sorted_gates.split(counts.tolist()), strict=True)
            for expert, part in enumerate(parts):
                accumulator.add_one(expert, *part)
        accumulator.add_choices(index[tokens])
    found = accumulator.finish()
    for expert in range(EXPERTS):
        chosen = [(t, k) for t in range(TOKENS) for k in range(TOP_K) if index[t, k] == expert]
        norms = [float(outputs[t, k].double().square().sum().sqrt()) for t, k in chosen]
        weights = [float(gates[t, k]) for t, k in chosen]
        want = {
            "routed": len(chosen),
            "gate_sum": sum(weights),
            "norm_sum": sum(norms),
            "norm_sq_sum": sum(norm**2 for norm in norms),
            "norm_max": max(norms, default=0.0),
            "saliency_sum": sum(weight * norm for weight, norm in zip(weights, norms, strict=True)),
            "output_max": max((float(outputs[t, k].abs().max()) for t, k in chosen), default=0.0),
        }
        for name, value in want.items():
            torch.testing.assert_close(float(found[name][expert]), float(value), rtol=1e-6, atol=0)
        for other in range(EXPERTS):
            both = sum(expert in row and other in row for row in index.tolist())
            assert found["coactivation"][expert, other] == both


def test_a_layer_is_read_back_by_its_number(tmp_path: Path) -> None:
    source = open_source(DEMO)
    statistics = calibrate(source, Calibration(samples=2, length=32), tmp_path, progress=silent).statistics
    assert statistics.moe_layers() == (0, 1)
    experts = statistics.experts_of(1)
    assert experts.name == "model.layers.1.block_sparse_moe.experts"
    assert torch.equal(experts.routed, statistics.site(f"{experts.name}.*.w1")["count"])
    assert int(experts.routed.sum()) == 2 * 2 * 32
    assert bool((experts.saliency_sum <= experts.norm_sum).all())  # MiniMax-M2's gates add up to 1
