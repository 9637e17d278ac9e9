"""FP8 weights with their scales, read as BF16.

X F8_E4M3 [.., R, C] + X_scale_inv (or X_scale)        X BF16 [.., R, C]
X.weight F8_E4M3 [R, C] + X.scale                      X.weight BF16 [R, C]   (DeepSeek-V4)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sixfold.checkpoint.storage.dequantize import fp8_blocks
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import StoredTensor
from sixfold.errors import SixfoldError

SCALE_DTYPES = ("F32", "BF16", "F8_E8M0")
FROM_BF16 = "start from the BF16 checkpoint that it was made from"


@dataclass(frozen=True)
class Fp8:
    """weight: F8_E4M3 [R, C] or [E, R, C]. scale: one per block of `block` rows and columns, ragged at the edges."""

    weight: StoredTensor
    scale: StoredTensor
    block: tuple[int, int]
    kind = "fp8"
    dtype = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        weight = folder.rows(self.weight, start, stop)
        grid = _grid(self.shape, self.block)
        if len(self.shape) == 3:
            scales = _float_scales(folder.rows(self.scale, start, stop)).reshape(-1, *grid[1:])
            experts = [fp8_blocks(w, s, self.block) for w, s in zip(weight, scales, strict=True)]
            return torch.stack(experts) if experts else torch.empty(weight.shape, dtype=torch.bfloat16)
        if grid[0] == 1:
            scale = _float_scales(folder.rows(self.scale, 0, self.scale.shape[0] if self.scale.shape else 1))
            return fp8_blocks(weight, scale.reshape(grid), (max(len(weight), 1), self.block[1]))
        first = start // self.block[0]
        scale = _float_scales(folder.rows(self.scale, first, max(first, -(-stop // self.block[0]))))
        return fp8_blocks(weight, scale.reshape(-1, grid[1]), self.block, start - first * self.block[0])

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        out.copy_(self.read(folder, 0, self.shape[0]))


def declared_block(
    declared: Mapping[str, Any] | None, weight: StoredTensor, stored: Mapping[str, StoredTensor]
) -> tuple[int, int] | None:
    """Of an FP8 weight of compressed-tensors: the blocks of the group whose grid its scales are; None where they are
    one a row or one in all."""
    scale = stored.get(f"{weight.name}_scale")
    for group in ((declared or {}).get("config_groups") or {}).values():
        block = (group.get("weights") or {}).get("block_structure") if isinstance(group, Mapping) else None
        if not isinstance(block, Sequence) or len(block) != 2 or not all(isinstance(b, int) and b > 0 for b in block):
            continue
        if scale is not None and scale.shape == _grid(weight.shape, (block[0], block[1])):
            return block[0], block[1]
    return None


def _grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the scales: blocks along the last two dimensions."""
    return (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))


def fp8_weight(weight: StoredTensor, stored: Mapping[str, StoredTensor], block: tuple[int, int] | None) -> Fp8:
    """block None: one scale for the tensor ([] or [1]) or one a row ([R] or [R, 1])."""
    called = (f"{weight.name}_scale_inv", f"{weight.name}_scale", f"{weight.name.removesuffix('.weight')}.scale")
    scale = next((stored[name] for name in called if name in stored), None)
    if scale is None:
        raise SixfoldError(
            f"{weight.name} in {weight.file} is FP8, but its scale {weight.name}_scale_inv is missing",
            f"download the checkpoint again, or {FROM_BF16}",
        )
    if scale.dtype not in SCALE_DTYPES:
        raise SixfoldError(
            f"{scale.name} in {scale.file} is {scale.dtype}; FP8 scales are F32, BF16 or UE8M0", FROM_BF16
        )
    if len(weight.shape) not in (2, 3):
        raise SixfoldError(
            f"{weight.name} in {weight.file} is FP8 of shape {list(weight.shape)}, not a matrix", FROM_BF16
        )
    rows, columns = weight.shape[-2:]
    matrices = weight.shape[:-2]
    if block is not None:
        expected = [_grid(weight.shape, block)]
    elif scale.shape in (matrices, (*matrices, 1), (*matrices, 1, 1)):
        return Fp8(weight, scale, (max(rows, 1), max(columns, 1)))
    else:
        block = (1, max(columns, 1))
        expected = [_grid(weight.shape, block), weight.shape[:-1]]
    if scale.shape not in expected:
        raise SixfoldError(
            f"{scale.name} in {scale.file} has shape {list(scale.shape)}, but {list(weight.shape)} in blocks of"
            f" {list(block)} needs {list(expected[0])}",
            "correct weight_block_size in config.json, or download the checkpoint again",
        )
    return Fp8(weight, scale, block)


def _float_scales(scale: torch.Tensor) -> torch.Tensor:
    """float32; UE8M0 is 2^(byte - 127)."""
    return scale.to(torch.float32)
