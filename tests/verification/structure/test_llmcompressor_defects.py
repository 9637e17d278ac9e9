"""What llmcompressor leaves when it is called directly, as its own documentation shows, with its known defects."""

import shutil
from pathlib import Path

import pytest
import torch

from sixfold.model.source import Source, open_source
from tests.exporters.exported import DEMO, silent
from tests.families import make_family
from verification.verify import verify


def found(path: Path, source: Source | None) -> dict[str, set[str]]:
    """check -> where, of everything that was found."""
    checks: dict[str, set[str]] = {}
    for finding in verify(path, source, silent).findings:
        checks.setdefault(finding.check, set()).add(finding.where)
    return checks


@pytest.fixture(scope="module")
def oneshot_nvfp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrated on four short samples of random tokens; experts that saw none of them are left to chance."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("oneshot") / "out"
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    ids = torch.randint(0, 2048, (4, 64), generator=torch.Generator().manual_seed(0))
    oneshot(
        model=model,
        recipe=QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=["lm_head", "re:.*gate$"]),
        dataset=Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()}),
        processor=tokenizer,
        num_calibration_samples=4,
        max_seq_length=64,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("against", [False, True])
def test_oneshot_renames_experts_and_rounds_biases(oneshot_nvfp4: Path, demo: Source, against: bool) -> None:
    checks = found(oneshot_nvfp4, demo if against else None)
    lost = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight"
        for layer in range(2)
        for expert in range(8)
        for part in ("w1", "w2", "w3")
    }
    assert lost <= checks["names.missing"]
    assert any(".gate_proj." in name for name in checks["names.unknown"])
    assert "model.layers.0.block_sparse_moe.e_score_correction_bias" in checks["plain.dtype"]
    assert "model.safetensors" in checks["files.mode"]


def test_model_free_without_an_ignore_list_quantizes_routers_embeddings_and_head(tmp_path: Path) -> None:
    from llmcompressor import model_free_ptq

    model_free_ptq(DEMO, tmp_path / "out", scheme="FP8_DYNAMIC", max_workers=1)
    protected = found(tmp_path / "out", None)["protected.quantized"]
    assert {
        "model.layers.0.block_sparse_moe.gate.weight_scale",
        "model.layers.1.block_sparse_moe.gate.weight_scale",
        "lm_head.weight_scale",
        "model.embed_tokens.weight_scale",
    } <= protected


def test_model_free_does_not_share_the_global_scales_of_qwen3_experts(tmp_path: Path) -> None:
    from llmcompressor import model_free_ptq

    folder = make_family("qwen3_moe", tmp_path / "model", vocab_size=2048)
    shutil.copy(DEMO / "tokenizer.json", folder / "tokenizer.json")
    ignore = ["lm_head", "model.embed_tokens", "re:.*mlp.gate$"]
    model_free_ptq(folder, tmp_path / "out", scheme="NVFP4A16", ignore=ignore, max_workers=1)
    for source in (None, open_source(folder)):
        apart = found(tmp_path / "out", source)["scales.not-shared"]
        assert any(".mlp.experts." in name and name.endswith("up_proj.weight_global_scale") for name in apart)
        assert not any("self_attn" in name for name in apart if "experts" in name)
