"""How a checkpoint stores its tensors, and how each is read as plain BF16, F16 or F32.

Quantized weights appear as one BF16 tensor under the name a BF16 checkpoint of the model would have:

    stored                                                 logical
    X F8_E4M3 [.., R, C] + X_scale_inv (or X_scale)        X BF16 [.., R, C]
    X_blocks U8 [E, R, G, 16] + X_scales U8 [E, R, G]      X BF16 [E, 32 G, R]   (gpt-oss)
    X_packed I32 + X_scale + X_shape                       X BF16 [R, C]         (see packed_integers)

Input scales of FP8 Linears (activation_scale, input_scale) belong to the stored format and are dropped.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sixfold.checkpoint.storage.dequantize import fp8_blocks, mxfp4_experts
from sixfold.checkpoint.storage.packed_integers import BESIDE, METHOD, SUFFIX, packed_bits, packed_weight
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES, StoredTensor
from sixfold.errors import SixfoldError

PLAIN_DTYPES = ("BF16", "F16", "F32", "I64", "BOOL")
"""Weights, and the integer and boolean tables that some models keep beside them (copied as they are)."""

SCALE_DTYPES = ("F32", "BF16", "F8_E8M0")
MODELOPT_CONFIG = "hf_quant_config.json"
FROM_BF16 = "start from the BF16 checkpoint that it was made from"


class StoredAs(Protocol):
    """A logical tensor: what exporters see, and how it comes from the stored ones."""

    @property
    def kind(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) along the first dimension (0 to 1 for a 0-d tensor), of `dtype`."""
        ...

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        """All of it into the contiguous CPU tensor `out` of its shape, converted to the dtype of `out`."""
        ...


@dataclass(frozen=True)
class Plain:
    stored: StoredTensor
    kind = "plain"

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        return folder.rows(self.stored, start, stop)

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        if out.dtype == TORCH_DTYPES[self.stored.dtype]:
            folder.rows_into(self.stored, out)
        else:
            out.copy_(_whole(self, folder))


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
        out.copy_(_whole(self, folder))


@dataclass(frozen=True)
class Mxfp4:
    """blocks: U8 [E, R, G, 16], two E2M1 values a byte, low nibble first. scales: U8 [E, R, G], exponents plus 127."""

    blocks: StoredTensor
    scales: StoredTensor
    kind = "mxfp4"
    dtype = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        experts, rows, groups, width = self.blocks.shape
        return experts, groups * width * 2, rows

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        return mxfp4_experts(folder.rows(self.blocks, start, stop), folder.rows(self.scales, start, stop))

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        for expert in range(self.shape[0]):
            out[expert : expert + 1].copy_(self.read(folder, expert, expert + 1))


@dataclass(frozen=True)
class Mxfp4Blocks:
    """The same as it is stored: U8 [E, R, G, 17], of each block its scale and its 16 bytes of values."""

    blocks: StoredTensor
    scales: StoredTensor
    kind = "plain"
    dtype = "U8"

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape, self.blocks.shape[-1] + 1)

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        scales = folder.rows(self.scales, start, stop).unsqueeze(-1)
        return torch.cat([scales, folder.rows(self.blocks, start, stop)], -1)

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        out.copy_(_whole(self, folder))


def as_quantized(logical: Mapping[str, StoredAs]) -> dict[str, StoredAs]:
    """What formats may hold as it is stored, by the names on disk."""
    found = (tensor for tensor in logical.values() if isinstance(tensor, Mxfp4))
    return {tensor.blocks.name: Mxfp4Blocks(tensor.blocks, tensor.scales) for tensor in found}


def _whole(tensor: StoredAs, folder: WeightFolder) -> torch.Tensor:
    return tensor.read(folder, 0, tensor.shape[0] if tensor.shape else 1)


def check_quantization(config: Mapping[str, Any], names: Collection[str], where: str) -> str:
    """The quantization method that config.json declares ("" where none); refuses those that cannot be read.

    names: of the files beside it; ModelOpt's hf_quant_config.json declares a method as well.
    """
    declared = _declared(config)
    if declared is None:
        if MODELOPT_CONFIG in names:
            raise SixfoldError(f"{where} is already quantized (modelopt: it has a {MODELOPT_CONFIG})", FROM_BF16)
        return ""
    method = str(declared.get("quant_method", "unnamed")) if isinstance(declared, Mapping) else "unnamed"
    packed = method == METHOD and packed_bits(declared) is not None
    if method not in ("fp8", "mxfp4") and not packed:
        raise SixfoldError(
            f"{where} is already quantized ({method}: quantization_config in its config.json)",
            f"{FROM_BF16}; if its weights are BF16 after all, remove quantization_config",
        )
    return method


def logical_tensors(
    stored: Mapping[str, StoredTensor], config: Mapping[str, Any], method: str, where: str
) -> dict[str, StoredAs]:
    """Logical tensors by name, each at the place of its weight in `stored`; SixfoldError on what cannot be read.

    method: what `check_quantization` found.
    """
    block = _block_size(config, where) if method == "fp8" else None
    bits = packed_bits(_declared(config)) if method == METHOD else None
    found: dict[str, StoredAs] = {}
    used: set[str] = set()
    for name, tensor in stored.items():
        if tensor.dtype == "F8_E4M3":
            if method != "fp8":
                raise SixfoldError(
                    f"{name} in {where} is FP8, but config.json has no quantization_config that says how it is scaled",
                    "restore it, for example"
                    ' "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}',
                )
            found[name] = fp8 = _fp8(tensor, stored, block)
            stem = name.removesuffix(".weight")
            used |= {
                fp8.scale.name,
                *(f"{stem}{join}{s}" for join in "._" for s in ("activation_scale", "input_scale")),
            }
        elif name.endswith("_blocks") and tensor.dtype == "U8" and method == "mxfp4":
            mxfp4 = _mxfp4(tensor, stored)
            found[name.removesuffix("_blocks")] = mxfp4
            used.add(mxfp4.scales.name)
        elif name.endswith(SUFFIX) and bits is not None:
            weight = name.removesuffix(SUFFIX)
            found[weight] = packed_weight(tensor, stored, bits)
            used |= {name, *(weight + suffix for suffix in BESIDE)}
    for name, tensor in stored.items():
        if name in used or name in found or name.removesuffix("_blocks") in found:
            continue
        alone = {"mxfp4": "_scales", METHOD: ".weight_scale"}.get(method, "_scale_inv")
        if name.endswith(("_scale_inv", alone)):
            raise SixfoldError(
                f"{name} in {where} is a scale without its quantized weight", "download the checkpoint again"
            )
        if tensor.dtype not in PLAIN_DTYPES:
            raise SixfoldError(
                f"{name} in {where} is stored as {tensor.dtype}, which is not read as a weight", FROM_BF16
            )
        found[name] = Plain(tensor)
    places = {name: place for place, name in enumerate(stored)}
    first = {name: min(places.get(name + suffix, len(places)) for suffix in ("", "_blocks", SUFFIX)) for name in found}
    return dict(sorted(found.items(), key=lambda item: first[item[0]]))


def _declared(config: Mapping[str, Any]) -> Any:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if part.get(key):
                return part[key]
    return None


def _block_size(config: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    block = _declared(config).get("weight_block_size")
    if block is None:
        return None
    if isinstance(block, Sequence) and len(block) == 2 and all(isinstance(b, int) and b > 0 for b in block):
        return block[0], block[1]
    raise SixfoldError(
        f"quantization_config of {where} has a weight_block_size of {block}", "it is two sizes, such as [128, 128]"
    )


def _grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the scales: blocks along the last two dimensions."""
    return (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))


def _fp8(weight: StoredTensor, stored: Mapping[str, StoredTensor], block: tuple[int, int] | None) -> Fp8:
    """block None: one scale for the tensor ([] or [1]) or one a row ([R] or [R, 1])."""
    scale = next((stored[weight.name + s] for s in ("_scale_inv", "_scale") if weight.name + s in stored), None)
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


def _mxfp4(blocks: StoredTensor, stored: Mapping[str, StoredTensor]) -> Mxfp4:
    scales = stored.get(blocks.name.removesuffix("_blocks") + "_scales")
    if scales is None:
        raise SixfoldError(
            f"{blocks.name} in {blocks.file} is MXFP4, but its {blocks.name.removesuffix('_blocks')}_scales is missing",
            "download the checkpoint again",
        )
    if len(blocks.shape) != 4 or blocks.shape[-1] != 16 or scales.shape != blocks.shape[:-1] or scales.dtype != "U8":
        raise SixfoldError(
            f"{scales.name} in {scales.file} is {scales.dtype} {list(scales.shape)}, which does not fit"
            f" MXFP4 blocks of shape {list(blocks.shape)}",
            "download the checkpoint again",
        )
    return Mxfp4(blocks, scales)


def _float_scales(scale: torch.Tensor) -> torch.Tensor:
    """float32; UE8M0 is 2^(byte - 127)."""
    return scale.to(torch.float32)
