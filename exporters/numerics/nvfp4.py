"""NVFP4: E2M1 weights in groups of 16 with an E4M3 scale each, under one float32 scale per tensor.

As compressed-tensors defines it, for all weights that share a global scale (one engine-fused group):

    global   = f32(dtype(448 * 6 / max |w|))                  dtype: the weights' own; 1 where not finite
    scale    = E4M3(min(global * dtype(max |group| / 6), 448))  the product in float32; 0.125 where it rounds to zero
    q        = E2M1(w / (scale / global))                     both divisions in float32

E2M1 rounds to nearest, halfway cases to the even code; a negative weight that rounds to zero keeps its sign, a zero
never has one. Source: compressed_tensors 0.19, quantization/utils/helpers.py `generate_gparam` and `calculate_qparams`,
quantization/utils/fp4_utils.py, compressors/nvfp4; tests hold every bit against them. Two differences, where the
library does damage: an F16 global scale is kept in float32 (above 65504 the library falls back to 1: any tensor whose
largest weight is below 0.041), and NaN or infinite weights are refused.

Measured on one AVX2 core, ns per BF16 weight: all of this 2.6, of which the maxima 0.4 (torch.amax over groups of 16:
0.9, in BF16 1.8) and the rounding 0.8 (seven comparisons: 0.95; in integers: 1.3). The library's own route takes 50.
On a GPU large pieces of tensors take the same steps, with the same bytes, which stay there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from exporters.numerics.division import divide
from exporters.numerics.magnitudes import as_floats, bits_of, magnitude_mask, refuse_non_finite, require_finite

GROUP = 16
E4M3_MAX = 448.0
E2M1_MAX = 6.0
SMALLEST_SCALE = 0.125
"""Stands for a group scale that rounds to zero, as in compressed-tensors."""
_SMALLEST_CODE = torch.tensor(SMALLEST_SCALE, dtype=torch.float8_e4m3fn).view(torch.uint8)

_CHUNK = 256 * 1024
"""Weights handled at a time, a multiple of GROUP: small enough for the cache, large enough to hide calls."""

_HALVES = np.float32(1.5 * 2**22)
_ONES = np.float32(1.5 * 2**23 + 2)
_TWOS = np.float32(1.5 * 2**24 + 8)
"""Neighboring float32 near these are 0.5, 1 and 2 apart: adding one to y <= 6 rounds y once, halves to even, and
leaves the rounded 2 y, y + 2 and y / 2 + 4 in the sum's lowest byte."""

_PIECE = 2**26
"""Weights that a GPU encodes at a time: what is held beside them is about 20 bytes for each."""


@dataclass(frozen=True)
class PackedWeight:
    """packed: uint8 [out, in / 2], the even column in the low half of each byte. scale: F8_E4M3 [out, in / 16]."""

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
    maxima = [_group_maxima(weight) for weight in weights]
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
    return [_packed(w, scale, there) for w, scale in zip(weights, scales, strict=True)], global_scale


def _packed(weight: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor) -> PackedWeight:
    divisors = scale.float() / global_scale
    step = max(1, _PIECE // weight.shape[1])
    pieces = zip(weight.split(step), divisors.split(step), strict=True)
    return PackedWeight(torch.cat([_codes(piece, of) for piece, of in pieces]), scale)


def _codes(weight: torch.Tensor, divisors: torch.Tensor) -> torch.Tensor:
    """As `_Encoder.encode`: uint8 [out, in / 2] of a weight [out, in] and divisors [out, in / 16]."""
    y = (weight.float().unflatten(1, (-1, GROUP)) / divisors[..., None]).flatten(1)
    signs = (y < 0).to(torch.uint8) << 3
    y = y.abs_().clamp_(max=E2M1_MAX)
    codes = [((y + float(rounder)).view(torch.int32) & 0xFF).to(torch.uint8) for rounder in (_HALVES, _ONES, _TWOS)]
    codes_and_signs = torch.minimum(torch.minimum(codes[0], codes[1]), codes[2]) | signs
    return codes_and_signs[:, 0::2] | codes_and_signs[:, 1::2] << 4


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


def _group_maxima(weight: torch.Tensor) -> np.ndarray:
    """Largest magnitude of every 16 weights, as integers, flat."""
    bits = bits_of(weight).reshape(-1)
    maxima = np.empty(bits.size // GROUP, bits.dtype)
    first, second = np.empty((2, min(_CHUNK, bits.size)), bits.dtype)
    mask = magnitude_mask(weight.dtype)
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK]
        here, there = first[: part.size], second[: part.size]
        np.bitwise_and(part, mask, out=here)
        # Windows of 2, 4, 8, then 16 neighbors, over contiguous memory; every sixteenth result is a group's.
        for reach in (1, 2, 4, 8):
            np.maximum(here[:-reach], here[reach:], out=there[:-reach])
            here, there = there, here
        maxima[start // GROUP : (start + part.size) // GROUP] = here[::GROUP]
    return maxima


def _quantize(weight: torch.Tensor, maxima: np.ndarray, global_scale: torch.Tensor) -> PackedWeight:
    rows, _columns = weight.shape
    return pack(weight, _group_scales(as_floats(maxima, weight.dtype), global_scale).view(rows, -1), global_scale)


def pack(weight: torch.Tensor, scale: torch.Tensor, global_scale: torch.Tensor) -> PackedWeight:
    """Each weight [out, in] by the code nearest to it at its group's scale, F8_E4M3 [out, in / 16]."""
    rows, columns = weight.shape
    weight, scale = weight.contiguous(), scale.contiguous()
    divisors = (scale.float() / global_scale).view(-1, 1)
    packed = np.empty(weight.numel() // 2, np.uint8)
    flat = weight.view(-1, GROUP)
    encoder = _Encoder(min(_CHUNK, weight.numel()))
    for start in range(0, weight.numel(), _CHUNK):
        groups = slice(start // GROUP, (start + _CHUNK) // GROUP)
        encoder.encode(flat[groups], divisors[groups], packed[start // 2 : (start + _CHUNK) // 2])
    return PackedWeight(torch.from_numpy(packed).view(rows, columns // 2), scale.view(rows, columns // GROUP))


def _group_scales(largest: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """max |group| -> F8_E4M3 scale."""
    scale = (global_scale * divide(largest, E2M1_MAX)).clamp_(max=E4M3_MAX).to(torch.float8_e4m3fn)
    codes = scale.view(torch.uint8)
    codes.masked_fill_(codes == 0, int(_SMALLEST_CODE))
    return scale


class _Encoder:
    """Memory for one chunk of weights, reused from chunk to chunk."""

    def __init__(self, size: int) -> None:
        self.quotients = torch.empty(size)
        self.sums = np.empty(size, np.float32)
        self.codes, self.others = np.empty((2, size), np.uint8)
        self.negative = np.empty(size, np.bool_)

    def encode(self, weight: torch.Tensor, divisors: torch.Tensor, packed: np.ndarray) -> None:
        """weight [n, 16] and divisors [n, 1] -> E2M1 codes, two in each of the 8 n bytes of `packed`.

        With y = |quotient| <= 6, the code is the rounded value of 2 y up to 2, of y + 2 up to 4, of y / 2 + 4 up to 6:
        of the smallest of the three, since each is below the others in its own range.
        """
        size = weight.numel()
        quotients = self.quotients[:size].view(-1, GROUP)
        quotients.copy_(weight)
        torch.div(quotients, divisors, out=quotients)
        y = quotients.numpy().reshape(-1)
        sums, codes, others = self.sums[:size], self.codes[:size], self.others[:size]
        negative = np.less(y, np.float32(0), out=self.negative[:size])
        quotients.abs_().clamp_(max=E2M1_MAX)
        _low_byte(np.add(y, _HALVES, out=sums), codes)
        for rounder in (_ONES, _TWOS):
            _low_byte(np.add(y, rounder, out=sums), others)
            np.minimum(codes, others, out=codes)
        signs = negative.view(np.uint8)
        np.multiply(signs, 8, out=signs)
        np.bitwise_or(codes, signs, out=codes)
        pairs, shifted = codes.view(np.uint16), others.view(np.uint16)
        np.right_shift(pairs, 4, out=shifted)
        np.bitwise_or(pairs, shifted, out=pairs)
        np.copyto(packed, pairs, casting="unsafe")


def _low_byte(sums: np.ndarray, out: np.ndarray) -> None:
    np.copyto(out, sums.view(np.int32), casting="unsafe")
