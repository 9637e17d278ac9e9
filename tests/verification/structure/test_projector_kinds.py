"""What is done to tensors of a tower in kinds that do it alone: sound as it is written, and found where it was not.
That llama.cpp's converter does the same is a matter of tests/engines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType

from sixfold.model.source import open_source
from tests.exporters.ggml.gguf_tools import export, recipe
from tests.seeing_families import make_seeing
from tests.verification.damage import GgufData, rewrite_gguf
from verification.reading.held_source import HeldSource
from verification.structure.projector.checks import check_projector


def _reordered(name: str) -> Callable[[GgufData], None]:
    def change(data: GgufData) -> None:
        held, kind = data[name]
        data[name] = held[..., ::-1].copy(), kind

    return change


def _by_pixel(data: GgufData) -> None:
    """Columns with the three colors of a pixel next to each other, as the source has them."""
    rows, kind = data["v.patch_embd.weight"]
    by_pixel = rows.reshape(len(rows), 3, -1).transpose(0, 2, 1)
    data["v.patch_embd.weight"] = by_pixel.reshape(rows.shape).copy(), kind


def _with_class_token(data: GgufData) -> None:
    positions, kind = data["v.position_embd.weight"]
    data["v.position_embd.weight"] = positions[[0, *range(len(positions))]], kind


def _in_bf16(name: str) -> Callable[[GgufData], None]:
    def change(data: GgufData) -> None:
        bits = torch.from_numpy(data[name][0].copy()).bfloat16().view(torch.uint8).numpy()
        data[name] = bits, GGMLQuantizationType.BF16

    return change


def _swapped(one: str, other: str) -> Callable[[GgufData], None]:
    def change(data: GgufData) -> None:
        data[one], data[other] = data[other], data[one]

    return change


DAMAGES: dict[str, tuple[Callable[[GgufData], Any], str]] = {
    "audioflamingo3": (_swapped("mm.a.mlp.1.bias", "mm.a.mlp.2.bias"), "mm.a.mlp.1.bias"),
    "gemma4_unified": (_by_pixel, "v.patch_embd.weight"),
    "hunyuan_vl": (_with_class_token, "v.position_embd.weight"),
    "janus": (_reordered("mm.1.weight"), "mm.1.weight"),
    "deepseek_v4 that sees": (_swapped("v.blk.1.ffn_gate.weight", "v.blk.1.ffn_up.weight"), "v.blk.1.ffn_up.weight"),
    "dots_ocr": (_swapped("v.blk.1.ffn_gate.weight", "v.blk.1.ffn_up.weight"), "v.blk.1.ffn_up.weight"),
    "glm5v": (_reordered("v.blk.2.attn_qkv.weight"), "v.blk.2.attn_qkv.weight"),
    "internvl_chat": (_swapped("v.blk.1.attn_k.weight", "v.blk.1.attn_v.weight"), "v.blk.1.attn_v.weight"),
    "kimi_vl": (_swapped("v.blk.1.attn_q.weight", "v.blk.1.attn_k.weight"), "v.blk.1.attn_k.weight"),
    "phi4-siglip": (_by_pixel, "v.patch_embd.weight"),
    "qianfan_ocr": (_swapped("v.blk.1.attn_k.weight", "v.blk.1.attn_v.weight"), "v.blk.1.attn_v.weight"),
    "qwen2_audio": (_swapped("a.blk.1.attn_q.weight", "a.blk.1.attn_v.weight"), "a.blk.1.attn_v.weight"),
    "voxtral": (_reordered("mm.a.mlp.2.weight"), "mm.a.mlp.2.weight"),
    "step_robotics": (_in_bf16("mm.1.weight"), "mm.1.weight"),
    "youtu_vl": (_reordered("mm.0.weight"), "mm.0.weight"),
    "step3p7": (_in_bf16("mm.0.weight"), "mm.0.weight"),
}
"""Of tests.seeing_families -> what is done to the file, and the tensor that is not as it should be then."""


@pytest.mark.parametrize("name", DAMAGES)
def test_kinds(name: str, tmp_path: Path) -> None:
    source = open_source(make_seeing(name, tmp_path / "eyes"))
    plan, model = export(source, recipe("BF16"), tmp_path)
    (sees,) = (model.with_name(file.name) for file in plan.files if file.shared)
    held = HeldSource(source, torch.device("cpu"))
    assert check_projector(sees, held) == []
    change, where = DAMAGES[name]
    rewrite_gguf(sees, tensors=lambda data: (change(data), None)[1])
    assert where in {finding.where for finding in check_projector(sees, held) if finding.severity == "error"}
