"""Weights of four-bit floats, as compressed-tensors and ModelOpt store them, read as BF16.

    stored                                                              logical
    X_packed U8 [R, C / 2] + X_scale F8_E4M3 [R, C / 16] + X_global_scale   X BF16 [R, C]   (NVFP4, compressed-tensors)
    X U8 [R, C / 2] + X_scale F8_E4M3 [R, C / 16] + X_scale_2               X BF16 [R, C]   (NVFP4, ModelOpt)
    X_packed U8 [R, C / 2] + X_scale U8 [R, C / 32]                         X BF16 [R, C]   (MXFP4, compressed-tensors)
    X.weight I8 [R, C / 2] + X.scale F8_E8M0 [R, C / 32]                    X.weight BF16 [R, C]   (MXFP4, DeepSeek-V4)

compressed-tensors divides by its global scale, and ModelOpt multiplies by its second one. MXFP4's scales are exponents
with a bias of 127.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sixfold.checkpoint.storage.dequantize import fp4_groups
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import StoredTensor
from sixfold.errors import SixfoldError

_PACKED, _SCALE, _GLOBAL, _SECOND = "_packed", "_scale", "_global_scale", "_scale_2"


@dataclass(frozen=True)
class PackedFloats:
    """whole: NVFP4's one scale of the tensor; None for MXFP4. divides: whether it divides."""

    packed: StoredTensor
    scale: StoredTensor
    whole: StoredTensor | None
    divides: bool
    dtype = "BF16"

    @property
    def kind(self) -> str:
        return "mxfp4" if self.whole is None else "nvfp4"

    @property
    def shape(self) -> tuple[int, ...]:
        rows, half = self.packed.shape
        return rows, 2 * half

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        scale = folder.rows(self.scale, start, stop)
        if self.whole is None:
            scale = torch.exp2(scale.view(torch.uint8).float() - 127)
        else:
            whole = folder.rows(self.whole, 0, self.whole.shape[0] if self.whole.shape else 1).float().reshape(())
            scale = scale.float() / whole if self.divides else scale.float() * whole
        return fp4_groups(folder.rows(self.packed, start, stop).view(torch.uint8), scale)

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        out.copy_(self.read(folder, 0, self.shape[0]))


def packed_floats(tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> tuple[str, PackedFloats] | None:
    """The logical name and tensor of a stored one that holds four-bit floats; None for any other.

    Raises SixfoldError where its scales are missing or do not fit.
    """
    divides = tensor.name.endswith(_PACKED)
    name = tensor.name.removesuffix(_PACKED)
    if tensor.dtype != "U8" or not (divides or name + _SECOND in stored):
        return None
    scale = stored.get(name + _SCALE)
    if scale is None:
        raise SixfoldError(
            f"{tensor.name} in {tensor.file} holds four-bit floats, but its {name}{_SCALE} is missing",
            "download the checkpoint again",
        )
    exponents = scale.dtype == "U8"
    whole = None if exponents else stored.get(name + (_GLOBAL if divides else _SECOND))
    group = 32 if exponents else 16
    fits = len(tensor.shape) == 2 and scale.shape == (tensor.shape[0], tensor.shape[1] * 2 // group)
    if not fits or scale.dtype not in ("U8", "F8_E4M3") or not (exponents or (whole and whole.shape in ((), (1,)))):
        raise SixfoldError(
            f"{scale.name} in {scale.file} is {scale.dtype} {list(scale.shape)}, which does not fit four-bit floats"
            f" packed as {tensor.dtype} {list(tensor.shape)}, or the scale of the whole is missing",
            "download the checkpoint again",
        )
    return name, PackedFloats(tensor, scale, whole, divides)


def floats_by_scales(tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> PackedFloats | None:
    """Four-bit floats of a `weight` whose scales are called `scale`, as DeepSeek-V4 has them; None of other tensors.

    Raises SixfoldError where the scales do not fit.
    """
    scale = stored.get(tensor.name.removesuffix(".weight") + ".scale")
    if tensor.dtype != "I8" or scale is None:
        return None
    if len(tensor.shape) != 2 or scale.dtype != "F8_E8M0" or scale.shape != (tensor.shape[0], tensor.shape[1] // 16):
        raise SixfoldError(
            f"{scale.name} in {scale.file} is {scale.dtype} {list(scale.shape)}, which does not fit four-bit floats"
            f" packed as {tensor.dtype} {list(tensor.shape)}",
            "download the checkpoint again",
        )
    return PackedFloats(tensor, scale, None, divides=False)


def beside(name: str) -> set[str]:
    """What else is stored of a weight that is called so, its input's scales among them."""
    stem = name.removesuffix(".weight")
    inputs = {f"{stem}.{scale}" for scale in ("input_scale", "input_global_scale")}
    return inputs | {name + suffix for suffix in (_PACKED, _SCALE, _GLOBAL, _SECOND)}
