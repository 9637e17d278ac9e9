"""Experts that a source holds in MXFP4 (gpt-oss, DeepSeek-V4), as the same numbers in ggml's blocks: nothing is rounded
again.

A block is a scale (E8M0) and 32 values (E2M1) in both. On disk a byte has neighbors, the first in its low half; ggml's
has value i and value i + 16.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from gguf import GGMLQuantizationType

from exporters.ggml.tensors import Tensor, expert_of
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.storage.source_encodings import MXFP4_BLOCKS

MXFP4 = GGMLQuantizationType.MXFP4


def held_in_mxfp4(tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Those of `tensors` whose experts are all in MXFP4 on disk, made of the stored blocks."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        alone = tuple(f"{part}{MXFP4_BLOCKS}" for part in tensor.inputs)
        if alone and expert_of(tensor.inputs[0]) is not None and set(alone) <= checkpoint.quantized.keys():
            found[name] = replace(tensor, inputs=alone, transform="mxfp4:0:1")
            continue
        cuts = [checkpoint.slices.get(part) for part in tensor.inputs]
        first = cuts[0] if cuts else None
        if first is None or f"{first.stack}_blocks" not in checkpoint.quantized:
            continue
        layout = first.layout
        ordered = [(cut.stack, cut.expert, cut.part) for cut in cuts if cut is not None]
        if ordered == [(first.stack, n, first.part) for n in range(len(cuts))] and (
            layout.interleaved or layout.parts == 1
        ):
            rows = f"mxfp4:{first.part}:{layout.parts}"
            found[name] = replace(tensor, inputs=(f"{first.stack}_blocks",), transform=rows)
    return found


def is_held(tensor: Tensor) -> bool:
    """Whether it is made of stored blocks."""
    return tensor.transform.startswith("mxfp4:")


def repacked(stored: torch.Tensor, transform: str) -> torch.Tensor:
    """stored: uint8 [experts, rows, blocks, 17], or [rows, blocks, 17] of one. transform: "mxfp4:P:N", of every N rows
    the one at P. Returns uint8, blocks of 17 bytes one behind the other."""
    part, parts = map(int, transform.split(":")[1:])
    blocks = stored[..., part::parts, :, :]
    values = torch.stack([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], -1).flatten(-2)
    return torch.cat([blocks[..., :1], values[..., :16] | values[..., 16:] << 4], -1).flatten()
