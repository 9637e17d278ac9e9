"""Every MoE family of the installed transformers: prune, reload, and compare with the original, masked.

A family that cannot pass is listed with the reason. README tells the numbers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.anatomy import dissect
from pruning.proof.masking import masked
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from tests import every_family
from tests.moe_families import make_moe, make_wrapped, moe_families
from tests.pruning.made import pruned

NO_CAUSAL_MODEL = {
    "deepseek_ocr2", "diffusion_gemma", "ernie4_5_vl_moe", "glm4v_moe", "glm5_next", "mistral4",
    "openai_privacy_filter", "qwen3_omni_moe", "qwen3_vl_moe",
}  # fmt: skip
"""Folders without a causal language model of their own: sixfold opens no checkpoint of theirs."""

WRAPPED = {"qwen3_5_moe": "qwen3_5_moe_text", "qwen4_exp": "qwen4_exp_text"}
"""Multimodal type -> the text model that its checkpoints are loaded as."""

NOT_TRIED = {"gemma4"}
"""Its wrapper names every tensor otherwise than its text model; that is tested (gemma4_text)."""

PASSING = sorted({kind for kinds in moe_families().values() for kind in kinds} - set(WRAPPED) - NOT_TRIED)


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "vision_config" in json.loads((folder / "config.json").read_text())
    model, info = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, experts_implementation="eager"
    )
    return model, info


def check(folder: Path, out: Path, kept: Mapping[int, Sequence[int]] | None = None) -> None:
    plan = pruned(folder, out, kept)
    anatomy = dissect(open_source(folder))
    original, before = load(folder)
    small, after = load(out)
    assert {key: value for key, value in after.items() if value} == {key: v for key, v in before.items() if v}
    ids = torch.stack([torch.arange(1, 49), torch.arange(48, 0, -1)])
    with torch.inference_mode():
        whole = original(input_ids=ids, use_cache=False).logits
        with masked(original, anatomy, plan.kept):
            expected = original(input_ids=ids, use_cache=False).logits
        found = small(input_ids=ids, use_cache=False).logits
    spread = float(whole.std())
    assert float((whole - expected).abs().max()) > 0.05 * spread, "the mask must change something"
    assert float((found - expected).abs().max()) < 1e-3 * spread


@pytest.mark.parametrize("model_type", PASSING)
def test_a_pruned_checkpoint_is_the_masked_original(model_type: str, tmp_path: Path) -> None:
    check(make_moe(model_type, tmp_path / "model"), tmp_path / "pruned")


@pytest.mark.parametrize("model_type", WRAPPED)
def test_counts_inside_a_multimodal_config(model_type: str, tmp_path: Path) -> None:
    folder = make_wrapped(model_type, WRAPPED[model_type], tmp_path / "model")
    check(folder, tmp_path / "pruned")
    assert open_source(tmp_path / "pruned").checkpoint.config["text_config"]["num_experts"] == 5


def test_experts_that_get_the_rows_of_all(tmp_path: Path) -> None:
    """Llama 4, whose gates weigh what experts read."""
    folder = every_family.make_family("llama4_text", tmp_path / "model", num_experts_per_tok=1)
    check(folder, tmp_path / "pruned", dict.fromkeys(range(4), (0, 2, 3)))
    assert open_source(tmp_path / "pruned").checkpoint.config["num_local_experts"] == 3


def test_arrays_of_gate_and_up_beside_a_tower(tmp_path: Path) -> None:
    """Step-3.7, whose experts transformers' interface runs once sixfold has opened it."""
    folder = every_family.make_family("step3p7", tmp_path / "model")
    check(folder, tmp_path / "pruned", {1: (0, 2, 3), 2: (0, 1, 3), 3: (1, 2, 3)})
    assert open_source(tmp_path / "pruned").checkpoint.config["text_config"]["n_routed_experts"] == 3


def test_every_family_is_accounted_for() -> None:
    """A new transformers brings new families: they are tried at once, or listed with the reason."""
    families = moe_families()
    assert {folder for folder, types in families.items() if not types} == NO_CAUSAL_MODEL
    assert set(WRAPPED.values()) <= set(PASSING)
    page = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text()
    assert f"{len(families) - len(NO_CAUSAL_MODEL)} of the {len(families)} model families" in page


def test_layers_that_route_by_a_table_are_refused(tmp_path: Path) -> None:
    """DeepSeek-V4's first layers send tokens to experts by a table, which no router would replace."""
    folder = make_moe("deepseek_v4", tmp_path / "model", mlp_layer_types=["hash_moe", "moe", "moe", "moe"])
    with pytest.raises(SixfoldError, match=r"deepseek_v4 routes by a table .*tid2eid"):
        dissect(open_source(folder))
