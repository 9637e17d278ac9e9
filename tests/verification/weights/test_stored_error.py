"""Errors are measured on blocks as a file holds them, which need not be neighbors on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from tests import every_family
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from tests.verification.damage import rewrite_gguf
from verification.verify import verify

KEYS_AND_VALUES = "model.layers.0.self_attn.kv_b_proj.weight"
OUT = "model.layers.0.linear_attn.out_proj.weight"
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    # Keys are held transposed, values beside them.
    KEYS_AND_VALUES: ("deepseek_v3", {"kv_lora_rank": 256}, "Q8_0"),
    # The values of a key lie apart: a superblock of 256 weights holds those of others.
    OUT: ("qwen3_5_text", {"layer_types": ["linear_attention"], "linear_num_value_heads": 8}, "Q4_K_S"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Source, Path]]:
    """Files of a matrix with heavy tails, rows of many sizes, and columns of two, each of which fills superblocks."""
    return {name: _made(name, tmp_path_factory.mktemp("stored")) for name in CASES}


def _made(name: str, root: Path) -> tuple[Source, Path]:
    family, changes, scheme = CASES[name]
    folder = every_family.make_family(family, root / "model", num_hidden_layers=1, **changes)
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(2)
    matrix = tensors[name].float() * (1.5 * torch.randn(tensors[name].shape, generator=generator)).exp()
    matrix *= (2 * torch.randn(len(matrix), 1, generator=generator)).exp()
    matrix[:, 256:] *= 0.01
    tensors[name] = matrix.to(tensors[name].dtype)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    return source, export(source, recipe(scheme, imatrix=False), root)[1]


@pytest.mark.parametrize("name", CASES)
def test_heavy_tails_are_sound(name: str, made: dict[str, tuple[Source, Path]]) -> None:
    source, path = made[name]
    found = verify(path, source, unseen)
    assert [finding for finding in found.findings if finding.where == name] == []
    assert found.errors is not None
    assert name in {error.name for error in found.errors if error.encoding}


def test_a_scale_of_one_of_two_matrices_is_named_with_it(made: dict[str, tuple[Source, Path]]) -> None:
    source, path = made[KEYS_AND_VALUES]
    damaged = path.with_name("damaged.gguf")
    damaged.write_bytes(path.read_bytes())

    def halve(data: dict[str, tuple[np.ndarray, object]]) -> None:
        scale = data["blk.0.attn_k_b.weight"][0][2, 5, :2].view(np.float16)
        scale *= 0.5

    rewrite_gguf(damaged, tensors=halve)  # type: ignore[arg-type]
    (finding,) = (one for one in verify(damaged, source, unseen).failures if one.where == KEYS_AND_VALUES)
    assert f"row {2 * 256 + 5}, column 0 of blk.0.attn_k_b.weight" in finding.what
