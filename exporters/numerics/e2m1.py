"""E2M1: four-bit floats 0, 0.5, 1, 1.5, 2, 3, 4 and 6 of either sign, two in a byte, each group under one divisor.

Rounding is to nearest, halfway cases to the even code; a negative weight that rounds to zero keeps its sign, a zero
never has one. Source: compressed_tensors 0.19, quantization/utils/fp4_utils.py.

Measured on one AVX2 core, ns per BF16 weight: all of NVFP4 2.6, of which the maxima 0.4 (torch.amax over groups of 16:
0.9, in BF16 1.8) and the rounding 0.8 (seven comparisons: 0.95; in integers: 1.3). The library's own route takes 50.
"""

import numpy as np
import torch

from exporters.numerics.magnitudes import bits_of, magnitude_mask

E2M1_MAX = 6.0

_CHUNK = 256 * 1024
"""Weights handled at a time, a multiple of every group: small enough for the cache, large enough to hide calls."""

_PIECE = 2**26
"""Weights that a GPU encodes at a time: what is held beside them is about 20 bytes for each."""

_HALVES = np.float32(1.5 * 2**22)
_ONES = np.float32(1.5 * 2**23 + 2)
_TWOS = np.float32(1.5 * 2**24 + 8)
"""Neighboring float32 near these are 0.5, 1 and 2 apart: adding one to y <= 6 rounds y once, halves to even, and
leaves the rounded 2 y, y + 2 and y / 2 + 4 in the sum's lowest byte."""


def packed_codes(weight: torch.Tensor, divisors: torch.Tensor) -> torch.Tensor:
    """weight [out, in], contiguous; divisors float32 [out, groups]: the codes nearest to weight / divisor, uint8
    [out, in / 2], the even column in the low half of each byte."""
    rows, columns = weight.shape
    group = columns // divisors.shape[1]
    packed = np.empty(weight.numel() // 2, np.uint8)
    flat, divisors = weight.view(-1, group), divisors.reshape(-1, 1)
    encoder = _Encoder(min(_CHUNK, weight.numel()))
    for start in range(0, weight.numel(), _CHUNK):
        groups = slice(start // group, (start + _CHUNK) // group)
        encoder.encode(flat[groups], divisors[groups], packed[start // 2 : (start + _CHUNK) // 2])
    return torch.from_numpy(packed).view(rows, columns // 2)


def packed_in_pieces(weight: torch.Tensor, divisors: torch.Tensor) -> torch.Tensor:
    """As `packed_codes`, with the same bytes, of weights on any device, where they stay."""
    step = max(1, _PIECE // weight.shape[1])
    return torch.cat([_pairs(*pieces) for pieces in zip(weight.split(step), divisors.split(step), strict=True)])


def _pairs(weight: torch.Tensor, divisors: torch.Tensor) -> torch.Tensor:
    """As `_Encoder.encode`."""
    y = (weight.float().unflatten(1, (divisors.shape[1], -1)) / divisors[..., None]).flatten(1)
    signs = (y < 0).to(torch.uint8) << 3
    y = y.abs_().clamp_(max=E2M1_MAX)
    codes = [((y + float(rounder)).view(torch.int32) & 0xFF).to(torch.uint8) for rounder in (_HALVES, _ONES, _TWOS)]
    codes_and_signs = torch.minimum(torch.minimum(codes[0], codes[1]), codes[2]) | signs
    return codes_and_signs[:, 0::2] | codes_and_signs[:, 1::2] << 4


def group_maxima(weight: torch.Tensor, group: int) -> np.ndarray:
    """Largest magnitude of every so many weights, a power of two, as integers, flat."""
    bits = bits_of(weight).reshape(-1)
    maxima = np.empty(bits.size // group, bits.dtype)
    first, second = np.empty((2, min(_CHUNK, bits.size)), bits.dtype)
    mask = magnitude_mask(weight.dtype)
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK]
        here, there = first[: part.size], second[: part.size]
        np.bitwise_and(part, mask, out=here)
        # Windows of 2, 4, 8, then more neighbors, over contiguous memory; the first of every group holds the group's.
        for reach in (1 << step for step in range(group.bit_length() - 1)):
            np.maximum(here[:-reach], here[reach:], out=there[:-reach])
            here, there = there, here
        maxima[start // group : (start + part.size) // group] = here[::group]
    return maxima


class _Encoder:
    """Memory for one chunk of weights, reused from chunk to chunk."""

    def __init__(self, size: int) -> None:
        self.quotients = torch.empty(size)
        self.sums = np.empty(size, np.float32)
        self.codes, self.others = np.empty((2, size), np.uint8)
        self.negative = np.empty(size, np.bool_)

    def encode(self, weight: torch.Tensor, divisors: torch.Tensor, packed: np.ndarray) -> None:
        """weight [n, group] and divisors [n, 1] -> codes, two in each byte of `packed`.

        With y = |quotient| <= 6, the code is the rounded value of 2 y up to 2, of y + 2 up to 4, of y / 2 + 4 up to 6:
        of the smallest of the three, since each is below the others in its own range.
        """
        size = weight.numel()
        quotients = self.quotients[:size].view(weight.shape)
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
