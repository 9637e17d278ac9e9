"""Every tensor equals, byte for byte, what llama-quantize makes of the same weights and importance matrix."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporters.ggml.header.metadata import file_type
from sixfold.model.source import Source, open_source
from tests.exporters.ggml.gguf_tools import (
    byte_level_tokenizer,
    export,
    imatrix_of,
    keys_of,
    random_statistics,
    recipe,
    save_tokenizer,
    spread,
    tensors_of,
)
from tests.exporters.ggml.llama_cpp import run
from tests.families import make_family
from tests.small_demo import small_demo

FIVE = ("Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K", "Q8_0")

CASES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"vocab_size": 320, "num_experts": 4, "num_hidden_layers": 1},
    "mixtral": {"vocab_size": 320, "hidden_size": 128, "head_dim": 32},
    "deepseek_v3": {"vocab_size": 320, "n_routed_experts": 4, "kv_lora_rank": 256},
    "llama": {"vocab_size": 320, "num_hidden_layers": 4, "intermediate_size": 256},
    "glm4_moe": {"hidden_size": 192, "moe_intermediate_size": 80, "intermediate_size": 96, "vocab_size": 320},
}
"""Families with what is changed of their usual size: rows of 128, 192 and 80 are what 256 does not divide."""


def made(case: str, folder: Path) -> Source:
    if case == "demo":
        return open_source(small_demo(folder))
    make_family(case, folder, **CASES[case])
    spread(folder)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    return open_source(folder)


@pytest.mark.parametrize("case", ["demo", *CASES])
def test_five_presets_equal_llama_quantize(case: str, tmp_path: Path) -> None:
    source = made(case, tmp_path / case)
    statistics = random_statistics(source, tmp_path / "statistics")
    imatrix = imatrix_of(source, statistics, tmp_path)
    _, bf16 = export(source, recipe("BF16"), tmp_path)
    run(
        [
            {
                "do": "quantize",
                "source": bf16,
                "target": tmp_path / f"{preset}.gguf",
                "ftype": int(file_type(preset)),
                "imatrix": imatrix,
            }
            for preset in FIVE
        ]
    )
    for preset in FIVE:
        _, ours = export(source, recipe(preset), tmp_path, statistics)
        expected, found = tensors_of(tmp_path / f"{preset}.gguf"), tensors_of(ours)
        assert list(found) == list(expected), preset
        for name, tensor in expected.items():
            assert found[name] == tensor, (preset, name, found[name][0], tensor[0])
        keys = keys_of(ours)
        assert {k: v for k, v in keys.items() if "imatrix" not in k} == keys_of(tmp_path / f"{preset}.gguf")
        if preset != "Q8_0":
            assert keys["quantize.imatrix.entries_count"] == len(np.load(imatrix).files)


def test_without_importance_and_other_presets(tmp_path: Path) -> None:
    """The remaining presets, and rounding without a matrix, on a model whose rows take every fallback."""
    source = made("glm4_moe", tmp_path / "glm4_moe")
    _, bf16 = export(source, recipe("BF16"), tmp_path)
    presets = ("Q2_K", "Q3_K_S", "Q3_K_L", "Q4_K_S", "Q5_K_S", "Q5_K_M", "IQ4_NL", "F16", "F32", *FIVE)
    jobs = [
        {"do": "quantize", "source": bf16, "target": tmp_path / p, "ftype": int(file_type(p)), "imatrix": None}
        for p in presets
    ]
    run(jobs)
    for preset in presets:
        _, ours = export(source, recipe(preset, imatrix=False), tmp_path)
        assert tensors_of(ours) == tensors_of(tmp_path / preset), preset


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_source_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    """FP16 and FP32 checkpoints: as llama-quantize from a GGUF in F32, which holds both exactly."""
    folder = tmp_path / "model"
    make_family("llama", folder)
    tensors = {name: tensor.to(dtype) * 1.003 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    _, f32 = export(source, recipe("F32"), tmp_path)
    run([{"do": "quantize", "source": f32, "target": tmp_path / "theirs", "ftype": 15, "imatrix": None}])
    _, ours = export(source, recipe("Q4_K_M", imatrix=False), tmp_path)
    assert tensors_of(ours) == tensors_of(tmp_path / "theirs")
