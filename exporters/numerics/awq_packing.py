"""Round a matrix to unsigned 4-bit groups with zero points, and pack it as AutoAWQ or compressed-tensors store it.

A group is `group` consecutive input channels of one output channel. With lo = min(group, 0) and hi = max(group, 0):

    scale = (hi - lo) / 15, rounded to a value that BF16 and FP16 both hold
    zero  = round(-lo / scale)
    q     = clamp(round(w / scale) + zero, 0, 15)        meaning (q - zero) * scale

as AutoAWQ does (zero included in the range, as compressed-tensors does: a group of one sign would clip otherwise).
AutoAWQ stores scales in FP16; an engine that runs the model in BF16 rounds them on loading. A scale that both types
hold means the same model in either, and costs nothing: q is chosen with the rounded scale.

Everything here is element-wise or an exact minimum or maximum, so the same input gives the same bytes on any machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

BITS = 4
LEVELS = 15
PER_WORD = 8
INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)
"""AutoAWQ: nibble i of a word (from the lowest bits) holds output channel INTERLEAVED[i] of the word's eight."""

SMALLEST_SCALE = 2.0**-24
"""The smallest positive FP16: what a group of zeros gets."""

BLOCK_ELEMENTS = 1 << 18
"""Weights converted at a time: 1 MB in float32 stays in a core's cache."""


@dataclass(frozen=True)
class Quantized:
    """levels: uint8 [out, in] in 0..15. zeros: uint8 [out, in/group]. scales: float32 [out, in/group]."""

    levels: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor


def group_parameters(lowest: torch.Tensor, highest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (both float32, same shape) of groups with these extremes; see the module's docstring."""
    lowest = lowest.clamp(max=0)
    scale = ((highest.clamp(min=0) - lowest) / LEVELS).clamp_(min=SMALLEST_SCALE)
    # BF16's 8 significant bits fit in FP16's 11 also where FP16 is subnormal, so this order loses nothing twice.
    scale = scale.bfloat16().half().float()
    return scale, (lowest / -scale).round_().clamp_(0, LEVELS)


def quantize(
    weight: torch.Tensor, group: int, columns: torch.Tensor | None = None, rows: torch.Tensor | None = None
) -> Quantized:
    """Round `weight * columns / rows`: weight [out, in] in any float type, columns float32 [in], rows float32 [out].

    Raises ValueError where a group holds inf or NaN, or values beyond FP16's scales.
    """
    out_features, in_features = weight.shape
    levels = torch.empty((out_features, in_features), dtype=torch.uint8)
    zeros = torch.empty((out_features, in_features // group), dtype=torch.uint8)
    scales = torch.empty((out_features, in_features // group), dtype=torch.float32)
    for block in _blocks(out_features, in_features):
        values = weight[block].to(torch.float32)
        if columns is not None:
            values = values * columns
        if rows is not None:
            values = values / rows[block, None]
        grouped = values.view(values.shape[0], -1, group)
        scale, zero = group_parameters(grouped.amin(-1), grouped.amax(-1))
        if not bool(torch.isfinite(scale).all()):
            raise ValueError("weights are not finite or too large for FP16 scales")
        levels_here = (grouped / scale[..., None]).round_().add_(zero[..., None]).clamp_(0, LEVELS)
        levels[block] = levels_here.view_as(values).to(torch.uint8)
        zeros[block] = zero.to(torch.uint8)
        scales[block] = scale
    return Quantized(levels, zeros, scales)


def dequantize(quantized: Quantized) -> torch.Tensor:
    """What the levels mean, float32 [out, in], still with `columns` and `rows` applied."""
    out_features, groups = quantized.scales.shape
    levels = quantized.levels.view(out_features, groups, -1).float()
    return ((levels - quantized.zeros.float()[..., None]) * quantized.scales[..., None]).view(out_features, -1)


def pack_gemm(quantized: Quantized) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """AutoAWQ's layout: qweight int32 [in, out/8], qzeros int32 [in/group, out/8], scales float16 [in/group, out]."""
    return (
        _pack_interleaved(quantized.levels),
        _pack_interleaved(quantized.zeros),
        quantized.scales.t().to(torch.float16).contiguous(),
    )


def pack_quantized(quantized: Quantized) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """compressed-tensors' layout: weight_packed int32 [out, in/8], weight_scale bfloat16 [out, in/group],
    weight_zero_point int32 [out/8, in/group], weight_shape int64 [2].

    It stores q - 8 in a nibble offset by 8, which is q again; zero points are packed along the output channels.
    """
    return (
        _pack_sequential(quantized.levels),
        quantized.scales.to(torch.bfloat16),
        _pack_sequential(quantized.zeros.t().contiguous()).t().contiguous(),
        torch.tensor(quantized.levels.shape, dtype=torch.int64),
    )


def _pack_interleaved(values: torch.Tensor) -> torch.Tensor:
    """uint8 [out, n] in 0..15 -> int32 [n, out/8], eight output channels a word in AutoAWQ's order."""
    out_features, length = values.shape
    packed = torch.empty((length, out_features // PER_WORD), dtype=torch.int32)
    for block in _blocks(out_features // PER_WORD, length * PER_WORD):
        eight = values[block.start * PER_WORD : block.stop * PER_WORD].view(-1, PER_WORD, length)
        word = eight[:, INTERLEAVED[0]].to(torch.int32)
        for nibble, channel in enumerate(INTERLEAVED[1:], start=1):
            word |= eight[:, channel].to(torch.int32) << (BITS * nibble)
        packed[:, block] = word.t()
    return packed


def _pack_sequential(values: torch.Tensor) -> torch.Tensor:
    """uint8 [rows, n] in 0..15 -> int32 [rows, n/8], eight neighbours a word, the first in the lowest bits."""
    pairs = values[:, 0::2] | (values[:, 1::2] << BITS)
    return pairs.contiguous().view(torch.int32)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
