"""Quantized weights as the numbers that their codes stand for, before scales: what tells a rounding from an accident.

A weight was rounded to nearest where (weight - base) / scale lies closer to its number than to the two beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from verification.declared import AWQ, COMPRESSED_TENSORS, FP8, MODELOPT, Scheme

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Codes:
    """numbers: float32 [out, in], each one of `grid`, which is sorted. scale: float32 that broadcasts to them, of
    either sign; base: float32 likewise, what the number zero stands for."""

    numbers: torch.Tensor
    grid: torch.Tensor
    scale: torch.Tensor
    base: torch.Tensor


def codes_of(scheme: Scheme, parts: Parts) -> Codes | None:
    """Of one Linear of a folder; None for layouts in which codes are not rounded to nearest by themselves (columns in
    the order of their activations) or whose numbers are not known here."""
    if scheme.method == FP8:
        block = scheme.weights["weight_block_size"]
        return _float8(parts["weight"], spread(parts["weight_scale_inv"], parts["weight"].shape, (block[0], block[1])))
    if scheme.method == AWQ:
        return _awq(parts)
    if scheme.method == MODELOPT:
        return _modelopt(parts)
    return _compressed_tensors(scheme, parts) if scheme.method == COMPRESSED_TENSORS else None


def _compressed_tensors(scheme: Scheme, parts: Parts) -> Codes | None:
    scale = parts["weight_scale"].float()
    if scheme.format == "nvfp4-pack-quantized":
        return _float4(parts["weight_packed"], scale / parts["weight_global_scale"].float())
    if scheme.format == "pack-quantized":
        return None if "weight_g_idx" in parts else _packed(scheme, parts, scale)
    weight = parts.get("weight")
    if weight is None or "weight_zero_point" in parts:
        return None
    if scheme.weights.get("strategy") == "block":
        block = scheme.weights.get("block_structure") or (128, 128)
        scale = spread(scale, weight.shape, (int(block[0]), int(block[1])))
    elif scheme.weights.get("strategy") not in ("channel", "tensor"):
        return None
    if weight.dtype == torch.float8_e4m3fn:
        return _float8(weight, scale)
    return Codes(weight.float(), _integers(-128, 127), scale, torch.zeros(1)) if weight.dtype == torch.int8 else None


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
    from verification.readers.formats import awq_codes

    scales = parts["scales"].float().t()
    codes, zeros = awq_codes(parts["qweight"]).t(), awq_codes(parts["qzeros"]).t()
    block = (1, codes.shape[1] // scales.shape[1])
    wide = spread(scales, codes.shape, block)
    return Codes(codes.contiguous(), _integers(0, 15), wide, -spread(zeros, codes.shape, block) * wide)


def _modelopt(parts: Parts) -> Codes | None:
    weight, scale = parts["weight"], parts["weight_scale"].float()
    if weight.dtype == torch.uint8:
        return _float4(weight, scale * parts["weight_scale_2"].float())
    return _float8(weight, scale.reshape(-1, 1)) if weight.dtype == torch.float8_e4m3fn else None


def _float8(weight: torch.Tensor, scale: torch.Tensor) -> Codes:
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return Codes(weight.float(), every[every.isfinite()].unique(), scale, torch.zeros(1))


def _float4(packed: torch.Tensor, scale: torch.Tensor) -> Codes:
    from verification.readers.formats import e2m1

    numbers = e2m1(packed)
    positive = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    grid = torch.cat((-positive[1:].flip(0), positive))
    return Codes(numbers, grid, spread(scale, numbers.shape, (1, 16)), torch.zeros(1))


def _integers(low: int, high: int) -> torch.Tensor:
    return torch.arange(low, high + 1, dtype=torch.float32)


def spread(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    """One value per block of rows and columns -> one per weight, ragged at the edges."""
    rows, columns = shape
    return scale.float().repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
