"""NVFP4: E2M1 weights in groups of 16 with an E4M3 scale each, under one float32 scale per tensor.

As compressed-tensors defines it, for all weights that share a global scale (one engine-fused group):

    global   = f32(dtype(448 * 6 / max |w|))                  dtype: the weights' own; 1 where not finite
    scale    = E4M3(min(global * dtype(max |group| / 6), 448))  the product in float32; 0.125 where it rounds to zero
    q        = E2M1(w / (scale / global))                     both divisions in float32

E2M1 as in exporters.numerics.e2m1. Source: compressed_tensors 0.19, quantization/utils/helpers.py `generate_gparam` and
`calculate_qparams`, compressors/nvfp4; tests hold every bit against them. Two differences, where the library does
damage: an F16 global scale is kept in float32 (above 65504 the library falls back to 1: any tensor whose largest weight
is below 0.041), and NaN or infinite weights are refused.
On a GPU large pieces of tensors take the same steps, with the same bytes, which stay there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from exporters.numerics.division import divide
from exporters.numerics.e2m1 import E2M1_MAX, group_maxima, packed_codes, packed_in_pieces
from exporters.numerics.magnitudes import as_floats, refuse_non_finite, require_finite

GROUP = 16
E4M3_MAX = 448.0
SMALLEST_SCALE = 0.125
"""Stands for a group scale that rounds to zero, as in compressed-tensors."""
_SMALLEST_CODE = torch.tensor(SMALLEST_SCALE, dtype=torch.float8_e4m3fn).view(torch.uint8)


@dataclass(frozen=True)
class PackedWeight:
    """packed: uint8 [out, in / 2], the even column in the low half of each byte. scale: of each group of a row, [out,
    groups]: F8_E4M3 of NVFP4, exponents in uint8 of MXFP4."""

    packed: torch.Tensor
    scale: torch.Tensor


def quantize_group(weights: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[list[PackedWeight], torch.Tensor]:
    """Weights [out, in] (BF16, F16 or F32, `in` a multiple of 16) that share one global scale.

    Returns them packed, and the global scale, float32 [1] on the host (the reciprocal of ModelOpt's `weight_scale_2`).
    Raises SixfoldError, with the name out of `names`, where a weight is NaN or infinite.
    """
    dtypes = {weight.dtype for weight in weights}
    weights = [weight.contiguous().to(torch.float32 if len(dtypes) > 1 else weight.dtype) for weight in weights]
    if weights[0].is_cuda:
        return whole_group(weights, names)
    maxima = [group_maxima(weight, GROUP) for weight in weights]
    for weight, groups, name in zip(weights, maxima, names, strict=True):
        refuse_non_finite(int(groups.max()), weight.dtype, name)
    largest = as_floats(np.stack([groups.max() for groups in maxima]), weights[0].dtype).max()
    global_scale = weight_global_scale(largest)
    return [_quantize(w, groups, global_scale) for w, groups in zip(weights, maxima, strict=True)], global_scale


def whole_group(weights: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[list[PackedWeight], torch.Tensor]:
    """As `quantize_group`, of contiguous weights of one dtype, on any device."""
    maxima = [weight.unflatten(1, (-1, GROUP)).abs().amax(-1) for weight in weights]
    require_finite(maxima, names)
    global_scale = weight_global_scale(torch.stack([groups.max() for groups in maxima]).max().cpu())
    there = global_scale.to(weights[0].device)
    scales = [_group_scales(groups, there) for groups in maxima]
    packed = [packed_in_pieces(w, scale.float() / there) for w, scale in zip(weights, scales, strict=True)]
    return list(map(PackedWeight, packed, scales)), global_scale


def weight_global_scale(largest: torch.Tensor) -> torch.Tensor:
    """448 * 6 / max |w| as float32 [1], rounded to the dtype of `largest` unless that is F16 and it would overflow."""
    scale = _global_scale(largest)
    if largest.dtype == torch.float16 and not torch.isfinite(E4M3_MAX * E2M1_MAX / largest):
        return _global_scale(largest.float())
    return scale


def _global_scale(largest: torch.Tensor) -> torch.Tensor:
    largest = largest.clamp(min=torch.finfo(largest.dtype).tiny)
    return torch.nan_to_num(E4M3_MAX * E2M1_MAX / largest, posinf=1.0).float().reshape(1)


def input_global_scale(largest: torch.Tensor) -> torch.Tensor:
    """448 * 6 / max |x|, float32 [1], of activations that were observed in BF16."""
    return _global_scale(largest.to(torch.bfloat16))


def _quantize(weight: torch.Tensor, maxima: np.ndarray, global_scale: torch.Tensor) -> PackedWeight:
    rows, _columns = weight.shape
    return pack(weight, _group_scales(as_floats(maxima, weight.dtype), global_scale).view(rows, -1), global_scale)


def pack(weight: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor) -> PackedWeight:
    """Each weight [out, in] by the code nearest to it at its group's scale, F8_E4M3 [out, in / 16]."""
    scale = scale.contiguous().view(weight.shape[0], -1)
    return PackedWeight(packed_codes(weight.contiguous(), scale.float() / global_scale), scale)


def _group_scales(largest: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """max |group| -> F8_E4M3 scale."""
    scale = (global_scale * divide(largest, E2M1_MAX)).clamp_(max=E4M3_MAX).to(torch.float8_e4m3fn)
    codes = scale.view(torch.uint8)
    codes.masked_fill_(codes == 0, int(_SMALLEST_CODE))
    return scale
