"""Round a matrix to unsigned 4-bit groups with zero points, and pack it as AutoAWQ or compressed-tensors store it.

A group is `group` consecutive input channels of one output channel. With lo = min(group, 0) and hi = max(group, 0):

    scale = (hi - lo) / 15, rounded to a value that BF16 and FP16 both hold
    zero  = round(-lo / scale)
    q     = clamp(round(w / scale + zero), 0, 15)        meaning (q - zero) * scale

as compressed-tensors and, up to ties and groups of one sign, AutoAWQ do.
AutoAWQ stores scales in FP16; an engine that runs the model in BF16 rounds them on loading. A scale that both types
hold means the same model in either, and costs nothing: q is chosen with the rounded scale.

Where the importance of the input channels is known, a narrower range may be better: see `clipped_parameters`.

Everything here is element-wise, an exact minimum or maximum, or a sum in a fixed order, so the same input gives the
same bytes on any machine, on a GPU as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from exporters.numerics.division import divide
from exporters.rounding.int4 import Stored

BITS = 4
LEVELS = 15
PER_WORD = 8
INTERLEAVED = (0, 2, 4, 6, 1, 3, 5, 7)
"""AutoAWQ: nibble i of a word (from the lowest bits) holds output channel INTERLEAVED[i] of the word's eight."""

SMALLEST_SCALE = 2.0**-24
"""The smallest positive FP16: what a group of zeros gets."""

storable = Stored((torch.bfloat16, torch.float16), SMALLEST_SCALE)
"""Makes scales positive, and numbers that BF16 and FP16 both hold: 8 significant bits also fit where FP16 is
subnormal."""

SHRINKS = (0.95, 0.9, 0.85, 0.8)
"""Ranges tried besides the whole one, as parts of it."""
REFITS = 2
"""Least-squares refinements of the best range's scale."""

BLOCK_ELEMENTS = 1 << 19
"""Weights converted at a time: few enough for a core's cache, enough that calls cost less than what they do."""
BLOCK_ELEMENTS_GPU = 1 << 26
"""The same, where there is no cache to stay in and a call must be worth a launch."""


@dataclass(frozen=True)
class Quantized:
    """levels: uint8 [out, in] in 0..15. zeros: uint8 [out, in/group]. scales: float32 [out, in/group]."""

    levels: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor


def group_parameters(lowest: torch.Tensor, highest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point (both float32, same shape) of groups with these extremes; see the module's docstring."""
    lowest = lowest.clamp(max=0)
    scale = storable(divide(highest.clamp(min=0) - lowest, LEVELS))
    return scale, (lowest / -scale).round_().clamp_(0, LEVELS)


def clipped_parameters(values: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each group for the least sum of importance * (rounded - value)^2 among a few.

    Tried are the whole range, the narrower SHRINKS of it, and for the best of them the scale that fits its levels by
    least squares. values: float32 [..., group], the group a power of two. importance: float32, positive, broadcast.
    """
    lowest, highest = values.amin(-1), values.amax(-1)
    scale, zero = group_parameters(lowest, highest)
    error = _squared_error(values, importance, scale, zero)

    def take_if_better(new_scale: torch.Tensor, new_zero: torch.Tensor) -> None:
        new = _squared_error(values, importance, new_scale, new_zero)
        better = new < error
        for old, replacement in ((scale, new_scale), (zero, new_zero), (error, new)):
            torch.where(better, replacement, old, out=old)

    for shrink in SHRINKS:
        take_if_better(*group_parameters(lowest * shrink, highest * shrink))
    for _ in range(REFITS):
        steps = levels(values, scale, zero).sub_(zero[..., None])
        weighted = steps * importance
        fitted = _sum(weighted * values) / _sum(weighted.mul_(steps))
        take_if_better(torch.where(fitted > 0, storable(fitted), scale), zero)
    return scale, zero


def levels(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """float32 [..., group] in 0..15, from values [..., group] and parameters [...]."""
    return (values / scale[..., None]).add_(zero[..., None]).round_().clamp_(0, LEVELS)


def rounding_error(values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """What rounding adds to the values: float32 [..., group]."""
    return levels(values, scale, zero).sub_(zero[..., None]).mul_(scale[..., None]).sub_(values)


def _squared_error(
    values: torch.Tensor, importance: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> torch.Tensor:
    """Sum over each group of importance * (rounded - value)^2: float32 [...]."""
    exact = (values / scale[..., None]).add_(zero[..., None])
    error = exact.round().clamp_(0, LEVELS).sub_(exact)
    return _sum(error.square_().mul_(importance)) * (scale * scale)


def quantize(
    weight: torch.Tensor,
    group: int,
    columns: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
    importance: torch.Tensor | None = None,
) -> Quantized:
    """Round `weight * columns / rows`: weight [out, in] in any float type, columns float32 [in], rows float32 [out].

    importance: float32 [in], the mean square of the unscaled inputs; None: ranges are not clipped. All are on one
    device, where the result is too. Raises ValueError where a group holds inf or NaN, or values beyond FP16's scales.
    """
    out_features, in_features = weight.shape
    found = Quantized(
        weight.new_empty((out_features, in_features), dtype=torch.uint8),
        weight.new_empty((out_features, in_features // group), dtype=torch.uint8),
        weight.new_empty((out_features, in_features // group), dtype=torch.float32),
    )
    for block in blocks(weight):
        values = weight[block].to(torch.float32)
        if columns is not None:
            values = values * columns
        if rows is not None:
            values = values / rows[block, None]
        grouped = values.view(values.shape[0], -1, group)
        scale, zero = parameters(grouped, channel_importance(importance, columns, group))
        if not bool(torch.isfinite(scale).all()):
            raise ValueError("weights are not finite or too large for FP16 scales")
        found.levels[block] = levels(grouped, scale, zero).view_as(values).to(torch.uint8)
        found.zeros[block] = zero.to(torch.uint8)
        found.scales[block] = scale
    return found


def parameters(grouped: torch.Tensor, importance: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of groups: of their extremes, or clipped where the importance is known."""
    if importance is None:
        return group_parameters(grouped.amin(-1), grouped.amax(-1))
    return clipped_parameters(grouped, importance)


def channel_importance(
    importance: torch.Tensor | None, columns: torch.Tensor | None, group: int
) -> torch.Tensor | None:
    """Mean square of the inputs after they were divided by `columns`: float32 [..., 1, in/group, group].

    importance, columns: float32 [..., in].

    A channel that never carried anything still counts a millionth of the largest, so that no group is all zeros.
    """
    if importance is None:
        return None
    scaled = importance if columns is None else importance / (columns * columns)
    least = (scaled.amax(-1, keepdim=True).double() * 1e-6).clamp(min=1e-30).float()
    return torch.maximum(scaled, least).unflatten(-1, (-1, group)).unsqueeze(-3)


def dequantize(quantized: Quantized) -> torch.Tensor:
    """What the levels mean, float32 [out, in], still with `columns` and `rows` applied."""
    out_features, groups = quantized.scales.shape
    steps = quantized.levels.view(out_features, groups, -1).float() - quantized.zeros.float()[..., None]
    return (steps * quantized.scales[..., None]).view(out_features, -1)


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


def _sum(values: torch.Tensor) -> torch.Tensor:
    """Over the last dimension, a power of two, by adding halves: the order that torch.sum takes is the machine's."""
    while half := values.shape[-1] // 2:
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


def _pack_interleaved(values: torch.Tensor) -> torch.Tensor:
    """uint8 [out, n] in 0..15 -> int32 [n, out/8], eight output channels a word in AutoAWQ's order."""
    out_features, length = values.shape
    packed = values.new_empty((length, out_features // PER_WORD), dtype=torch.int32)
    whole = values.view(-1, PER_WORD, length)
    for block in blocks(whole.flatten(1)):
        eight = whole[block]
        word = eight[:, INTERLEAVED[0]].to(torch.int32)
        for nibble, channel in enumerate(INTERLEAVED[1:], start=1):
            word |= eight[:, channel].to(torch.int32) << (BITS * nibble)
        packed[:, block] = word.t()
    return packed


def _pack_sequential(values: torch.Tensor) -> torch.Tensor:
    """uint8 [rows, n] in 0..15 -> int32 [rows, n/8], eight neighbors a word, the first in the lowest bits."""
    rows, columns = values.shape
    pairs = values.new_empty((rows, columns // 2))  # dense whatever the strides of `values`
    torch.bitwise_or(values[:, 0::2], values[:, 1::2] << BITS, out=pairs)
    return pairs.view(torch.int32)


def blocks(weight: torch.Tensor) -> Iterator[slice]:
    """Of output channels of a weight [..., out, in]: as many as are worked on at a time."""
    rows = weight.shape[-2]
    together = BLOCK_ELEMENTS_GPU if weight.is_cuda else BLOCK_ELEMENTS
    step = max(1, together * rows // max(1, weight.numel()))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
