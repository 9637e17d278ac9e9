"""Weights that compressed-tensors packed as integers ("pack-quantized": Kimi-K2's INT4 experts), read as BF16.

    stored                                                            logical
    X_packed I32 [R, C * bits / 32] + X_scale [R, C / group]          X BF16 [R, C]

Each word holds 32 / bits values, the first in its lowest bits, shifted by 2^(bits - 1) so that none is negative.
X_shape says [R, C] again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import StoredTensor
from sixfold.errors import SixfoldError

METHOD = "compressed-tensors"
SUFFIX = "_packed"
BESIDE = ("_scale", "_shape")
"""What else is stored of a weight."""

_BITS = (4, 8)
_SCALES = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class PackedIntegers:
    packed: StoredTensor
    scale: StoredTensor
    bits: int
    dtype = "BF16"

    @property
    def kind(self) -> str:
        return f"int{self.bits}"

    @property
    def shape(self) -> tuple[int, ...]:
        rows, words = self.packed.shape
        return rows, words * 32 // self.bits

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        return unpacked(folder.rows(self.packed, start, stop), folder.rows(self.scale, start, stop), self.bits)

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        out.copy_(self.read(folder, 0, self.shape[0]))


def unpacked(packed: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """bfloat16(integer * scale), [R, C]. packed: int32 [R, C * bits / 32]. scale: [R, groups]."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    values = ((packed.unsqueeze(-1) >> shifts) & (2**bits - 1)) - 2 ** (bits - 1)
    groups = values.view(len(packed), scale.shape[1], -1).float()
    return (groups * scale.float().unsqueeze(-1)).bfloat16().view(len(packed), -1)


def packed_bits(declared: Mapping[str, Any]) -> int | None:
    """Bits of each value, of a quantization_config; None where it declares something else, or values that are not
    symmetric or lie in another order than on disk."""
    groups = declared.get("config_groups")
    if declared.get("format") != "pack-quantized" or not isinstance(groups, Mapping) or not groups:
        return None
    weights = [group.get("weights") if isinstance(group, Mapping) else None for group in groups.values()]
    bits = {_bits(scheme) for scheme in weights}
    return bits.pop() if len(bits) == 1 else None


def _bits(scheme: Any) -> int | None:
    if not isinstance(scheme, Mapping) or scheme.get("type") != "int" or scheme.get("symmetric") is not True:
        return None
    told = scheme.get("strategy") in ("group", "channel") and not scheme.get("actorder")
    return scheme["num_bits"] if told and scheme.get("num_bits") in _BITS else None


def packed_weight(packed: StoredTensor, stored: Mapping[str, StoredTensor], bits: int) -> PackedIntegers:
    """packed: a tensor whose name ends with SUFFIX. Raises SixfoldError where its scales are missing or do not fit."""
    name = packed.name.removesuffix(SUFFIX)
    scale = stored.get(f"{name}_scale")
    if scale is None:
        raise SixfoldError(
            f"{packed.name} in {packed.file} is INT{bits}, but its {name}_scale is missing",
            "download the checkpoint again",
        )
    matrix = packed.dtype == "I32" and len(packed.shape) == 2
    fits = matrix and len(scale.shape) == 2 and scale.shape[0] == packed.shape[0] and scale.dtype in _SCALES
    if not fits or not scale.shape[1] or packed.shape[1] * 32 // bits % scale.shape[1]:
        raise SixfoldError(
            f"{scale.name} in {scale.file} is {scale.dtype} {list(scale.shape)}, which does not fit INT{bits} values"
            f" packed as {packed.dtype} {list(packed.shape)}",
            "download the checkpoint again",
        )
    return PackedIntegers(packed, scale, bits)
