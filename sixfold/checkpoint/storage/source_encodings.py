"""How a checkpoint stores its tensors, and how each is read as plain BF16, F16 or F32.

Quantized weights appear as one BF16 tensor under the name a BF16 checkpoint of the model would have:

    stored                                                 logical
    X F8_E4M3 [.., R, C] + X_scale_inv (or X_scale)        X BF16 [.., R, C]     (see fp8_weights)
    X_blocks U8 [E, R, G, 16] + X_scales U8 [E, R, G]      X BF16 [E, 32 G, R]   (gpt-oss)
    X_packed I32 + X_scale + X_shape                       X BF16 [R, C]         (see packed_integers)
    X_packed or X U8 + X_scale                             X BF16 [R, C]         (see packed_floats)

Scales of inputs and of key-value caches (activation_scale, input_scale, k_scale...) belong to the stored format and are
dropped.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sixfold.checkpoint.storage.dequantize import mxfp4_experts
from sixfold.checkpoint.storage.fp8_weights import FROM_BF16, Fp8, declared_block, fp8_weight
from sixfold.checkpoint.storage.packed_floats import PackedFloats, beside, floats_by_scales, packed_floats
from sixfold.checkpoint.storage.packed_integers import BESIDE, METHOD, SUFFIX, packed_bits, packed_weight
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES, StoredTensor
from sixfold.errors import SixfoldError

PLAIN_DTYPES = ("BF16", "F16", "F32", "I64", "BOOL")
"""Weights, and the integer and boolean tables that some models keep beside them (copied as they are)."""

MODELOPT_CONFIG = "hf_quant_config.json"
MODELOPT = "modelopt"
_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION")
"""ModelOpt's, whose tensors say themselves how they are read."""

_FLOATS = ("float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mixed-precision")
"""compressed-tensors' formats beside integers in words."""

FP8_BLOCK = (128, 128)
"""Rows and columns for each scale of FP8 as DeepSeek, Qwen and GLM publish it."""
MXFP4_BLOCKS = " (MXFP4 as stored)"
FP8_CODES, FP8_SCALES = " (FP8 as stored)", " (its scales as stored)"
"""Behind the name of a weight."""

_OF_CACHES = ("k_scale", "v_scale", "q_scale", "kv_scale")


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
    """The same as it is stored: U8 [E, R, G, 17], of each block its scale and its 16 bytes of values; or [R, G, 17] of
    blocks [R, 16 G] (U8 or I8) of one matrix, and scales [R, G] (U8 or F8_E8M0)."""

    blocks: StoredTensor
    scales: StoredTensor
    kind = "plain"
    dtype = "U8"

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape, 17)

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        scales = folder.rows(self.scales, start, stop).view(torch.uint8).unsqueeze(-1)
        blocks = folder.rows(self.blocks, start, stop).view(torch.uint8)
        return torch.cat([scales, blocks.reshape(*scales.shape[:-1], 16)], -1)

    def read_into(self, folder: WeightFolder, out: torch.Tensor) -> None:
        out.copy_(_whole(self, folder))


def as_quantized(logical: Mapping[str, StoredAs]) -> dict[str, StoredAs]:
    """What formats may hold as it is stored, by the names on disk; of FP8 in blocks, whose weights have the name of
    what they stand for, that name and FP8_CODES."""
    found: dict[str, StoredAs] = {}
    for name, tensor in logical.items():
        if isinstance(tensor, Mxfp4):
            found[tensor.blocks.name] = Mxfp4Blocks(tensor.blocks, tensor.scales)
        elif isinstance(tensor, PackedFloats) and tensor.kind == "mxfp4":
            found[f"{name}{MXFP4_BLOCKS}"] = Mxfp4Blocks(tensor.packed, tensor.scale)
        elif isinstance(tensor, Fp8) and tensor.block == FP8_BLOCK and len(tensor.shape) == 2:
            if tensor.scale.dtype in PLAIN_DTYPES:
                found[f"{tensor.weight.name}{FP8_CODES}"] = Plain(tensor.weight)
                found[f"{tensor.weight.name}{FP8_SCALES}"] = Plain(tensor.scale)
    return found


def _whole(tensor: StoredAs, folder: WeightFolder) -> torch.Tensor:
    return tensor.read(folder, 0, tensor.shape[0] if tensor.shape else 1)


def check_quantization(config: Mapping[str, Any], names: Collection[str], where: str) -> str:
    """The quantization method that config.json declares ("" where none); refuses those that cannot be read.

    names: of the files beside it; ModelOpt's hf_quant_config.json declares a method as well, and may do so alone.
    """
    declared = _declared(config)
    if declared is None:
        return MODELOPT if MODELOPT_CONFIG in names else ""
    method = str(declared.get("quant_method", "unnamed")) if isinstance(declared, Mapping) else "unnamed"
    readable = method in ("fp8", "mxfp4") or (method == MODELOPT and declared.get("quant_algo") in _ALGORITHMS)
    if not readable and not (method == METHOD and (packed_bits(declared) is not None or _all_floats(declared))):
        raise SixfoldError(
            f"{where} is already quantized ({method}: quantization_config in its config.json)",
            f"{FROM_BF16}; if its weights are BF16 after all, remove quantization_config",
        )
    return method


def _all_floats(declared: Mapping[str, Any]) -> bool:
    """Whether a quantization_config of compressed-tensors has nothing but floats of eight and four bits, which are
    neither rotated nor sparse."""
    groups, more = declared.get("config_groups"), (declared.get("transform_config"), declared.get("sparsity_config"))
    if declared.get("format") not in _FLOATS or not isinstance(groups, Mapping) or not groups or any(more):
        return False
    weights = [group.get("weights") if isinstance(group, Mapping) else None for group in groups.values()]
    return all(isinstance(w, Mapping) and w.get("type") == "float" and w.get("num_bits") in (4, 8) for w in weights)


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
    named = method in (METHOD, MODELOPT)
    for tensor in stored.values() if named else ():
        if floats := packed_floats(tensor, stored):
            found[floats[0]] = floats[1]
            used |= {tensor.name, *beside(floats[0])}
        elif tensor.name.rpartition(".")[2] in _OF_CACHES:
            used.add(tensor.name)
        elif tensor.name.endswith("pre_quant_scale"):
            raise SixfoldError(
                f"{tensor.name} in {where} scales a Linear's inputs, which no BF16 model does", FROM_BF16
            )
    for tensor in stored.values() if method == "fp8" else ():
        if of_four_bits := floats_by_scales(tensor, stored):
            found[tensor.name] = of_four_bits
            used |= {tensor.name, of_four_bits.scale.name}
    for name, tensor in stored.items():
        if name in used:
            continue
        if tensor.dtype == "F8_E4M3" and not (named and name.endswith(".weight_scale")):
            if method != "fp8" and not named:
                raise SixfoldError(
                    f"{name} in {where} is FP8, but config.json has no quantization_config that says how it is scaled",
                    "restore it, for example"
                    ' "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}',
                )
            found[name] = fp8 = fp8_weight(
                tensor, stored, declared_block(_declared(config), tensor, stored) if named else block
            )
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
        alone = {"mxfp4": "_scales", METHOD: ".weight_scale", MODELOPT: ".weight_scale"}.get(method, "_scale_inv")
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
