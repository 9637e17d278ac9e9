"""Each criterion against its formula, written down literally over plain transformers forwards."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from calibration.calibrate import calibrate
from calibration.forward_pass.observation import Observation
from calibration.forward_pass.observe import observed
from calibration.texts.tokens import token_batches
from pruning.anatomy import dissect
from pruning.choosing.criteria import CRITERIA, names, saliency, super_experts
from pruning.choosing.weight_criteria import aimer
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import UsageError
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.bf16_products import fast_products
from sixfold.runner.causal_attention import fast_causal_attention
from sixfold.runner.whole_model import load_model
from sixfold.statistics.statistics import ExpertStatistics
from tests.moe_families import make_moe
from tests.pruning.made import DEMO, silent

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")
PROFILE = Calibration(samples=4, length=48, sample_rows=8)


def literal(folder: Path, ids: torch.Tensor) -> dict[int, dict[str, torch.Tensor]]:
    """Layer -> criterion -> float64 [experts]: token by token, expert by expert, with the gates that the family's own
    router gave.

    The forward is the calibration's, kernel by kernel, so that routers choose alike on every processor: in BF16 many
    scores lie a rounding apart.
    """
    source = open_source(folder)
    model = load_model(source, dtype=torch.bfloat16, device=CPU)
    architecture = source.architecture
    observation = Observation(
        architecture.linears, ranks=torch.arange(ids.numel()), rows=1, device=CPU, stacks=architecture.stacks
    )
    seen: dict[int, list[tuple[int, float, float]]] = defaultdict(list)

    def watch(module: Any, args: tuple[Any, ...], layer: int) -> None:
        hidden, index, gates = args
        for token in range(len(hidden)):
            for expert, gate in zip(index[token].tolist(), gates[token].tolist(), strict=True):
                gate_part, up_part = nn.functional.linear(hidden[token], module.gate_up_proj[expert]).chunk(2)
                inner = module.act_fn(gate_part) * up_part
                output = nn.functional.linear(inner, module.down_proj[expert])
                seen[layer].append((expert, gate, float(output.float().norm())))

    for name, module in model.named_modules():
        if name.endswith(".experts"):
            layer = int(name.split(".layers.")[1].split(".")[0])
            module.register_forward_pre_hook(lambda m, args, layer=layer: watch(m, args, layer))
    with torch.inference_mode(), fast_products(CPU), fast_causal_attention(CPU), observed(model, observation):
        model(input_ids=ids, use_cache=False)
    return {layer: _judged(rows) for layer, rows in seen.items()}


def _judged(rows: list[tuple[int, float, float]]) -> dict[str, torch.Tensor]:
    products: dict[int, list[float]] = defaultdict(list)
    norms: dict[int, list[float]] = defaultdict(list)
    for expert, gate, norm in rows:
        products[expert].append(gate * norm)
        norms[expert].append(norm)

    def of_each(value: Any) -> torch.Tensor:
        return torch.tensor([float(value(expert)) for expert in range(8)], dtype=torch.float64)

    return {
        "reap": of_each(lambda e: sum(products[e]) / max(len(products[e]), 1)),
        "weighted-ean": of_each(lambda e: sum(products[e])),
        "ean": of_each(lambda e: sum(norms[e])),
        "frequency": of_each(lambda e: len(norms[e])),
        "man": of_each(lambda e: sum(norms[e]) / max(len(norms[e]), 1)),
        "msan": of_each(lambda e: sum(norm**2 for norm in norms[e]) / max(len(norms[e]), 1)),
    }


@pytest.mark.parametrize(
    "model_type",
    ["qwen3_moe", "minimax_m2", "deepseek_v3", "granitemoe"],
    ids=["softmax", "sigmoid and bias", "groups", "experts stacked on disk"],
)
def test_saliency_is_the_formulas(model_type: str, tmp_path: Path) -> None:
    folder = make_moe(model_type, tmp_path / "model", vocab_size=2048)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    statistics = calibrate(open_source(folder), PROFILE, tmp_path / "statistics", progress=silent).statistics
    expected = literal(folder, token_batches(PROFILE, load_tokenizer(folder)).ids)
    assert tuple(sorted(expected)) == statistics.moe_layers() == dissect(open_source(folder)).layers
    for layer, criteria in expected.items():
        assert set(criteria) == set(CRITERIA), "each criterion has a formula here"
        found = statistics.experts_of(layer)
        for criterion, values in criteria.items():
            torch.testing.assert_close(saliency(criterion, found, seed=0, layer=layer), values, rtol=2e-2, atol=1e-6)
        assert torch.equal(saliency("frequency", found, seed=0, layer=layer), criteria["frequency"])


@pytest.mark.parametrize("model_type", ["qwen3_moe", "granitemoe"], ids=["one by one", "stacked on disk"])
def test_aimer_is_mean_over_root_mean_square_upside_down(model_type: str, tmp_path: Path) -> None:
    source = open_source(make_moe(model_type, tmp_path / "model"))
    anatomy = dissect(source)
    model = load_model(source, dtype=torch.float32, device=CPU)
    experts = [m for name, m in model.named_modules() if name.endswith(".experts")]
    assert len(experts) == len(anatomy.layers)
    for layer, module in zip(anatomy.layers, experts, strict=True):
        found = aimer(source, anatomy, layer)
        for expert in range(8):
            weights = torch.cat([module.gate_up_proj[expert].flatten(), module.down_proj[expert].flatten()]).double()
            score = weights.abs().mean() / weights.square().mean().sqrt()
            assert float(found[expert]) == pytest.approx(float(1 / score))


def made_up(**changes: list[float]) -> ExpertStatistics:
    fields = {
        "routed": [2.0, 0.0, 4.0],
        "gate_sum": [1.0, 0.0, 1.0],
        "norm_sum": [6.0, 0.0, 4.0],
        "norm_sq_sum": [18.0, 0.0, 4.0],
        "norm_max": [3.0, 0.0, 1.0],
        "saliency_sum": [3.0, 0.0, 1.0],
        "output_max": [1.0, 0.0, 1.0],
        **changes,
    }
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in fields.items()}
    return ExpertStatistics("experts", **tensors, coactivation=torch.zeros(3, 3))


def test_an_expert_that_no_token_reached_is_the_least() -> None:
    for criterion in CRITERIA:
        values = saliency(criterion, made_up(), seed=0, layer=0)
        assert values[1] == 0
        assert values.isfinite().all()
    assert saliency("reap", made_up(), seed=0, layer=0).tolist() == [1.5, 0, 0.25]


def test_random_depends_on_seed_and_layer_alone() -> None:
    def drawn(seed: int, layer: int) -> list[float]:
        return saliency("random", made_up(), seed=seed, layer=layer).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(2, 1)
    assert drawn(1, 2) != drawn(1, 3)


def test_super_experts_stand_far_out() -> None:
    assert super_experts(made_up(output_max=[1.0, 0.9, 50.0])) == (2,)
    assert super_experts(made_up(output_max=[1.0, 0.9, 5.0])) == ()


def test_an_unknown_criterion_names_the_known() -> None:
    with pytest.raises(UsageError, match="there is no criterion 'magic'; the criteria are reap, frequency"):
        saliency("magic", made_up(), seed=0, layer=0)


@pytest.mark.parametrize("name", names())
def test_the_page_on_pruning_says_what_a_criterion_is(name: str) -> None:
    assert f"`{name}`" in (Path(__file__).parents[3] / "docs" / "pruning.md").read_text()
