"""Quantized weights as the numbers that their codes stand for, before scales: what tells a rounding from an accident.

A weight was rounded to nearest where (weight - base) / scale lies closer to its number than to the two beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from verification.reading.declared import AWQ, COMPRESSED_TENSORS, FP8, MODELOPT, Scheme
from verification.reading.packing import E2M1_VALUES, awq_codes, e2m1, spread

_SCALES = (torch.bfloat16, torch.float16, torch.float32)

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Stored:
    """How scales are kept where tools take them from a block's largest weight. block: rows and columns that share one.
    rounded: an exact scale -> as it is stored. global_scale: of NVFP4, as compressed-tensors states it; float32 [1], or
    [out, 1] of several matrices under one another."""

    block: tuple[int, int]
    rounded: Callable[[torch.Tensor], torch.Tensor]
    global_scale: torch.Tensor | None = None


@dataclass(frozen=True)
class Codes:
    """numbers: float32 [out, in], each one of `grid`, which is sorted. scale: float32 that broadcasts to them, of
    either sign; base: float32 likewise, what the number zero stands for; all three on one device, the grid on the CPU.
    stored: None where scales are searched."""

    numbers: torch.Tensor
    grid: torch.Tensor
    scale: torch.Tensor
    base: torch.Tensor
    stored: Stored | None = None

    def rows(self, start: int, stop: int) -> "Codes":
        """Those of some rows."""
        held = self.numbers.shape[0]
        scale, base = (x if x.shape[0] != held else x[start:stop] for x in (self.scale, self.base))
        return Codes(self.numbers[start:stop], self.grid, scale, base)


def codes_of(scheme: Scheme, parts: Parts) -> Codes | None:
    """Of one Linear of a folder; None for layouts in which codes are not rounded to nearest by themselves (columns in
    the order of their activations) or whose numbers are not known here."""
    if scheme.method == FP8:
        block = scheme.weights["weight_block_size"]
        return _float8(parts["weight"], parts["weight_scale_inv"], (block[0], block[1]))
    if scheme.method == AWQ:
        return _awq(parts)
    if scheme.method == MODELOPT:
        return _modelopt(parts)
    return _compressed_tensors(scheme, parts) if scheme.method == COMPRESSED_TENSORS else None


def _compressed_tensors(scheme: Scheme, parts: Parts) -> Codes | None:
    scale = parts["weight_scale"].float()
    if scheme.format == "nvfp4-pack-quantized":
        return _float4(parts["weight_packed"], parts["weight_scale"], parts["weight_global_scale"].float())
    if scheme.format == "mxfp4-pack-quantized":
        return _powers_of_two(parts["weight_packed"], scale)
    if scheme.format == "pack-quantized":
        return None if "weight_g_idx" in parts else _packed(scheme, parts, scale)
    weight = parts.get("weight")
    if weight is None or "weight_zero_point" in parts:
        return None
    strategy = scheme.weights.get("strategy")
    if strategy not in ("channel", "tensor", "block"):
        return None
    if weight.dtype == torch.float8_e4m3fn:
        block = {"channel": (1, 0), "tensor": (0, 0)}.get(strategy)
        return _float8(weight, parts["weight_scale"], block or scheme.weights.get("block_structure") or (128, 128))
    whole = weight.dtype == torch.int8 and strategy != "block"
    return Codes(weight.float(), _integers(-128, 127), scale, _no_base(weight)) if whole else None


def _packed(scheme: Scheme, parts: Parts, scale: torch.Tensor) -> Codes:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    bits = int(scheme.weights["num_bits"])
    rows, columns = (int(size) for size in parts["weight_shape"])
    numbers = unpack_from_int32(parts["weight_packed"], bits, torch.Size((rows, columns))).float()
    zero = torch.zeros_like(scale)
    if "weight_zero_point" in parts:
        zero = unpack_from_int32(parts["weight_zero_point"], bits, scale.shape, packed_dim=0).float()
    block = (1, columns // scale.shape[1])
    wide = spread(scale, numbers.shape, block)
    half = 2 ** (bits - 1)
    return Codes(numbers, _integers(-half, half - 1), wide, -spread(zero, numbers.shape, block) * wide)


def _awq(parts: Parts) -> Codes:
    scales = parts["scales"].float().t()
    codes, zeros = awq_codes(parts["qweight"]).t(), awq_codes(parts["qzeros"]).t()
    block = (1, codes.shape[1] // scales.shape[1])
    wide = spread(scales, codes.shape, block)
    return Codes(codes.contiguous(), _integers(0, 15), wide, -spread(zeros, codes.shape, block) * wide)


def _modelopt(parts: Parts) -> Codes | None:
    weight, scale = parts["weight"], parts["weight_scale"]
    if weight.dtype == torch.uint8:
        return _float4(weight, scale, 1 / parts["weight_scale_2"].float())
    if weight.dtype != torch.float8_e4m3fn:
        return None
    return _float8(weight, scale.reshape(-1, 1), (1, 0) if scale.numel() > 1 else (0, 0))


def _float8(weight: torch.Tensor, scale: torch.Tensor, block: Sequence[int]) -> Codes:
    """block: rows and columns that share a scale, 0 for all."""
    height, width = int(block[0]) or weight.shape[0], int(block[1]) or weight.shape[1]
    rows_alone = height == 1 and width == weight.shape[1]
    wide = scale.float() if rows_alone or scale.numel() == 1 else spread(scale, weight.shape, (height, width))
    dtype = scale.dtype
    stored = Stored((height, width), lambda exact: exact.to(dtype).float()) if dtype in _SCALES else None
    return Codes(weight.float(), _e4m3(), wide, _no_base(weight), stored)


def _float4(packed: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor) -> Codes:
    numbers = e2m1(packed)

    def rounded(exact: torch.Tensor) -> torch.Tensor:
        return (exact * global_scale).clamp(max=448).to(torch.float8_e4m3fn).float() / global_scale

    stored = Stored((1, 16), rounded, global_scale)
    return Codes(
        numbers, _e2m1(), spread(scale.float() / global_scale, numbers.shape, (1, 16)), _no_base(packed), stored
    )


def _powers_of_two(packed: torch.Tensor, exponents: torch.Tensor) -> Codes:
    """MXFP4. exponents: float32, with their bias."""
    numbers = e2m1(packed)

    def rounded(exact: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(exact * 6)
        return torch.exp2((exponent - 3 + (mantissa * 2 > 1.75 - 1e-6)).clamp(min=-127).float())

    return Codes(
        numbers,
        _e2m1(),
        spread(torch.exp2(exponents - 127), numbers.shape, (1, 32)),
        _no_base(packed),
        Stored((1, 32), rounded),
    )


@cache
def _e4m3() -> torch.Tensor:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return every[every.isfinite()].unique()


@cache
def _e2m1() -> torch.Tensor:
    return torch.cat((-E2M1_VALUES[1:].flip(0), E2M1_VALUES))


def _no_base(weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros(1, device=weight.device)


def _integers(low: int, high: int) -> torch.Tensor:
    return torch.arange(low, high + 1, dtype=torch.float32)
