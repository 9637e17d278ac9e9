"""The largest models are planned from their config.json alone, to the bytes that transformers' own models have."""

import json
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from exporters.export.planning import plan_all
from sixfold.checkpoint.config_fields import without_quantization
from sixfold.model.bare_config import open_config
from sixfold.model.derivation import derive_architecture
from sixfold.model.expert_stacks import with_single_experts
from sixfold.model.source import Source
from sixfold.recipes.recipe import load_recipes

CONFIGS = Path(__file__).parents[2] / "docs" / "configs"
PARAMETERS = {
    "gpt-oss-120b": 116.8e9,
    "minimax-m2.7": 228.7e9,
    "qwen3-235b-a22b": 235.1e9,
    "deepseek-v3": 671.0e9,
    "kimi-k2": 1026.4e9,
}
"""As the models' cards have them, of the decoder without its multi-token prediction."""


@pytest.fixture(
    scope="module",
    params=["gpt-oss-120b", *(pytest.param(name, marks=pytest.mark.bench) for name in PARAMETERS if "oss" not in name)],
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str) -> Source:
    path = CONFIGS / f"{name}.json"
    checkpoint = with_single_experts(open_config(path, str(path)))
    return Source(checkpoint, derive_architecture(checkpoint))


@pytest.fixture(scope="module")
def weights(name: str) -> dict[str, torch.Tensor]:
    """transformers' own, on the meta device. Of Kimi-K2, whose model type only its publisher knows, by its class."""
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    kind = {"kimi_k2": "deepseek_v3"}.get(config["model_type"], config["model_type"])
    known = CONFIG_MAPPING[kind].from_dict(without_quantization(config) | {"model_type": kind})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(known).state_dict()


def test_it_has_the_parameters_that_its_card_says(name: str, weights: dict[str, torch.Tensor]) -> None:
    assert sum(weight.numel() for weight in weights.values()) == pytest.approx(PARAMETERS[name], rel=2e-3)


def test_a_copy_in_bf16_has_the_bytes_of_the_model(source: Source, weights: dict[str, torch.Tensor]) -> None:
    """Two for each weight, four for what corrects a router's choice."""
    (planned,) = plan_all(source, load_recipes("bf16"))
    assert planned.plan is not None
    want = sum(
        weight.numel() * (4 if name.endswith("bias") and "corr" in name else 2) for name, weight in weights.items()
    )
    assert sum(tensor.nbytes for tensor in planned.plan.tensors) == want


@pytest.mark.bench
def test_every_format_is_planned(source: Source) -> None:
    """NVFP4 has a scale for 16 weights, FP8 one for a row: the bytes of Linears follow from their shapes."""
    for planned in plan_all(source, load_recipes("all-formats")):
        assert planned.refusal is None
        assert planned.plan is not None
        if planned.recipe.name in ("fp8", "nvfp4"):
            of = {linear.weight: (linear.out_features, linear.in_features) for linear in source.architecture.linears}
            made = [unit for unit in planned.plan.units if unit.encoding.startswith(planned.recipe.name)]
            found = want = 0
            for unit in made:
                found += sum(part.nbytes for part in unit.outputs)
                for part in unit.inputs:
                    rows, columns = of[part.name]
                    want += rows * columns + 2 * rows if planned.recipe.name == "fp8" else rows * columns * 9 // 16 + 4
            assert found == want, planned.recipe.name
