"""A source in FP8 blocks of 128 x 128, as DeepSeek, Qwen and GLM publish it, is `fp8-block` already: codes and scales
go over as they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sixfold.model.source import open_source
from tests.exporters.exported import recipe, run, silent
from tests.families import make_family
from verification.verify import verify

BLOCK = 128


def in_blocks(folder: Path, *, powers: bool) -> Path:
    """The Linears of decoder layers in FP8, scales as published: float32, in DeepSeek-V3.1 and later powers of two."""
    file = folder / "model.safetensors"
    made = {}
    for name, tensor in load_file(file).items():
        if tensor.dim() != 2 or ".layers." not in name or name.endswith("gate.weight"):
            made[name] = tensor
            continue
        rows, columns = tensor.shape
        blocks = tensor.float().unflatten(0, (rows // BLOCK, BLOCK)).unflatten(2, (columns // BLOCK, BLOCK))
        scales = blocks.abs().amax((1, 3)) / 448
        scales = scales.log2().ceil().exp2() if powers else scales
        codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        made[name] = codes.flatten(2).flatten(0, 1)
        made[f"{name}_scale_inv"] = scales
    save_file(made, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    declared = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": declared}))
    return folder


@pytest.mark.parametrize("powers", [False, True])
def test_codes_and_scales_go_over_as_they_are(powers: bool, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    make_family("qwen3_moe", folder)
    source = open_source(in_blocks(folder, powers=powers))
    written = run(source, recipe("fp8", "FP8_BLOCK"), tmp_path / "out")
    held, stored = written.tensors, load_file(folder / "model.safetensors")
    codes = [name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn]
    assert codes
    for name in codes:
        assert torch.equal(held[name].view(torch.uint8), stored[name].view(torch.uint8)), name
        assert torch.equal(held[f"{name}_scale"], stored[f"{name}_scale_inv"]), name
    assert len(held) == len(stored)
    assert f"as the source has them in FP8, codes and scales unchanged: {len(codes)} Linears" in written.notes
    assert "less than half" not in written.notes[0]
    assert verify(written.folder, source, silent).findings == ()
    file = written.folder / "model.safetensors"
    damaged = held[codes[0]].view(torch.uint8)
    damaged[7, 9] ^= 0x40
    save_file(held, file, {"format": "pt"})
    assert codes[0].removesuffix(".weight") in " ".join(
        f.where for f in verify(written.folder, source, silent).failures
    )
