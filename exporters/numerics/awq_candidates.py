"""Activation-aware search: which scale of the input channels makes 4-bit rounding hurt the outputs least.

For Linears with weights W [out, in] that share input rows X, and a candidate s > 0 per input channel, rounding W * s
and feeding X / s instead of X gives the outputs X W^T + (X / s) E^T with E = round(W * s) - W * s. The loss of s is the
squared sum of that second term, and the candidates are AWQModifier's grid (llmcompressor; the scales after Lin et al.,
"AWQ: Activation-aware Weight Quantization", arXiv 2306.00978).

A search streams: weights are needed once for `weight_sum` and once for each call of `losses`, and never those of two
inputs at a time. Results depend on the order of float sums; that is why they are recorded as decisions.

Everything runs on the device of its weights. "..." stands for experts side by side, as a GPU needs them to be worth its
while, or for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from exporters.numerics.awq_packing import blocks, channel_importance, parameters, rounding_error

DuoScaling = bool | Literal["both"]


@dataclass(frozen=True)
class GridPoint:
    """duo: whether the weights' own magnitudes count as well as the activations'."""

    ratio: float
    duo: bool


PLAIN = GridPoint(0.0, False)
"""All scales 1: rounding to nearest."""


def grid(points: int, duo_scaling: DuoScaling) -> tuple[GridPoint, ...]:
    """AWQModifier's grid in its order. Each holds PLAIN, so a search is never worse than it."""
    if duo_scaling == "both":
        half = points // 2
        return tuple(GridPoint(i / (half - 1), duo) for i in range(half) for duo in (False, True))
    if duo_scaling:
        return (GridPoint(0.0, False), *(GridPoint(i / (points - 2), True) for i in range(points - 1)))
    return tuple(GridPoint(i / (points - 1), False) for i in range(points))


def candidate_scales(points: Sequence[GridPoint], x_mean: torch.Tensor, w_mean: torch.Tensor) -> torch.Tensor:
    """float32 [points, in] from the mean of |x| and the normalized mean of |w| per input channel, both float32 [in].

    s = x^ratio, or x^ratio / (w^(1 - ratio) + 1e-4), at least 1e-4, divided by sqrt(max * min); 1 where not finite.
    """
    scales = []
    for point in points:
        scale = x_mean.pow(point.ratio)
        if point.duo:
            scale = scale / (w_mean.pow(1 - point.ratio) + 1e-4)
        scale = scale.clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        scales.append(torch.where(torch.isfinite(scale), scale, 1.0))
    return torch.stack(scales)


def weight_sum(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Sum over output channels of |w| / (the largest |w| of its group + 1e-6): float64 [..., in].

    weight: [..., out, in] in any float type. Divided by the output channels of all Linears, the sum over them is
    `w_mean`.
    """
    total = weight.new_zeros((*weight.shape[:-2], weight.shape[-1]), dtype=torch.float64)
    for rows in blocks(weight):
        size = weight[..., rows, :].to(torch.float32).abs().unflatten(-1, (-1, group))
        size /= size.amax(-1, keepdim=True) + 1e-6
        total += size.sum(-3, dtype=torch.float64).flatten(-2)
    return total


def losses(
    weight: torch.Tensor, rows: torch.Tensor, scales: torch.Tensor, group: int, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared error of each output, summed over `rows`, for each candidate: float32 [..., points, out].

    weight: [..., out, in]. rows: [..., S, in], the input rows X. scales: float32 [..., points, in].
    importance: float32 [..., in], if ranges are to be clipped as awq_packing.quantize does; None: they are not.
    """
    each = scales.unbind(-2)
    small = triangular(rows.to(torch.float32))
    scaled_rows = [small / scale[..., None, :] for scale in each]
    scaled_importance = [channel_importance(importance, scale, group) for scale in each]
    total = scales.new_empty((*weight.shape[:-2], len(each), weight.shape[-2]))
    for part in blocks(weight):
        block = weight[..., part, :].to(torch.float32)
        for i, scale in enumerate(each):
            values = (block * scale[..., None, :]).unflatten(-1, (-1, group))
            error = rounding_error(values, *parameters(values, scaled_importance[i])).flatten(-2)
            total[..., i, part] = torch.matmul(scaled_rows[i], error.mT).square_().sum(-2)
    return total


def output_energy(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Squared outputs, summed over `rows` [..., S, in], for weights [..., out, in]: float32 [..., out]."""
    return torch.matmul(rows.to(torch.float32), weight.to(torch.float32).mT).square_().sum(-2)


def triangular(rows: torch.Tensor) -> torch.Tensor:
    """A matrix with the same Gram matrix as `rows` [..., S, in] and at most `in` rows: many rows cost no more."""
    if rows.shape[-2] <= rows.shape[-1]:
        return rows
    return torch.linalg.qr(rows, mode="r")[1]
