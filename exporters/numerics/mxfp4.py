"""MXFP4: E2M1 weights in groups of 32 under a power of two each.

As compressed-tensors defines it: the exponent of a group's largest weight, one more from 1.75 times that power of two,
less 2, which is E2M1's largest exponent. It is stored with a bias of 127 in a byte (E8M0). Source: compressed_tensors
0.19, quantization/utils/mxfp_utils.py `generate_mx_scales`, compressors/mxfp4; tests hold every bit against them.
Exponents are counted in integers here: the library's scale is 1, whatever the weights, where that power of two is none
of the weights' dtype (at its upper end, and for F16's subnormal numbers).
"""

import torch

from exporters.numerics.e2m1 import group_maxima, packed_codes, packed_in_pieces
from exporters.numerics.magnitudes import as_floats, refuse_non_finite, require_finite
from exporters.numerics.nvfp4 import PackedWeight

GROUP = 32
_QUARTER = 1 << 21
"""Of a float32's mantissa: added to 1.75 and more, it carries into the exponent, which has E8M0's bias."""


def quantize(weight: torch.Tensor, name: str) -> PackedWeight:
    """weight [out, in] (BF16, F16 or F32, `in` a multiple of 32) -> packed, with scale uint8 [out, in / 32].

    Raises SixfoldError, with the name, where a weight is NaN or infinite.
    """
    if weight.is_cuda:
        return whole(weight, name)
    weight = weight.contiguous()
    maxima = group_maxima(weight, GROUP)
    refuse_non_finite(int(maxima.max()), weight.dtype, name)
    scale = _exponents(as_floats(maxima, weight.dtype)).view(weight.shape[0], -1)
    return PackedWeight(packed_codes(weight, as_float(scale)), scale)


def whole(weight: torch.Tensor, name: str) -> PackedWeight:
    """As `quantize`, on any device, where it stays."""
    maxima = weight.unflatten(1, (-1, GROUP)).abs().amax(-1)
    require_finite([maxima], [name])
    scale = _exponents(maxima)
    return PackedWeight(packed_in_pieces(weight, as_float(scale)), scale)


def _exponents(largest: torch.Tensor) -> torch.Tensor:
    bits = largest.float().view(torch.int32)
    return (((bits + _QUARTER) >> 23) - 2).clamp(min=0).to(torch.uint8)


def as_float(scale: torch.Tensor) -> torch.Tensor:
    """Stored exponents, uint8, as the float32 powers of two that they stand for; 2^-127, of 0, is subnormal."""
    bits = scale.to(torch.int32) << 23
    return torch.where(bits == 0, 1 << 22, bits).view(torch.float32)
