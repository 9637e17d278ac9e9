"""ggml's 256-weight blocks from chosen codes and scales; the inverse of gguf-py's dequantize_blocks.

A block is d (and dmin), one small multiple of it for every group, and the codes, laid out as in ggml-common.h. All
arrays are integers of N blocks: codes uint8 [N, 256], multiples [N, groups], d and dmin float16 [N].
"""

from collections.abc import Callable

import numpy as np
from gguf import GGMLQuantizationType as Type

SPAN = 256
_Array = np.ndarray


def packed(qtype: Type, codes: _Array, multiples: _Array, d: _Array, minima: _Array, dmin: _Array) -> _Array:
    """uint8 [N, bytes of a block]. minima, dmin: of Q4_K and Q5_K, unread for the others."""
    if qtype in _WITH_MINIMUM:
        return _WITH_MINIMUM[qtype](codes, multiples, d, minima, dmin)
    return _SCALED[qtype](codes, multiples, d)


def _q3_k(codes: _Array, multiples: _Array, d: _Array) -> _Array:
    """codes 0..7 (the level plus 4), multiples -32..31."""
    number = len(codes)
    high = _bits(codes.reshape(number, 8, 32) >> 2, 1)
    parts = (codes & 3).reshape(number, 2, 4, 32)
    low = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    scale = (multiples + 32).astype(np.uint8)
    low_scale = (scale[:, :8] & 15) | (scale[:, 8:] & 15) << 4
    high_scale = _bits((scale >> 4).reshape(number, 4, 4), 2)
    return np.concatenate([high, low.reshape(number, 64), low_scale, high_scale, _half(d)], 1)


def _q4_k(codes: _Array, multiples: _Array, d: _Array, minima: _Array, dmin: _Array) -> _Array:
    """codes 0..15, multiples and minima 0..63."""
    pairs = codes.reshape(len(codes), 4, 2, 32)
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(codes), 128)
    return np.concatenate([_half(d), _half(dmin), _six_bits(multiples, minima), low], 1)


def _q5_k(codes: _Array, multiples: _Array, d: _Array, minima: _Array, dmin: _Array) -> _Array:
    """codes 0..31, multiples and minima 0..63."""
    low = _q4_k(codes & 15, multiples, d, minima, dmin)
    high = _bits(codes.reshape(len(codes), 8, 32) >> 4, 1)
    return np.concatenate([low[:, :16], high, low[:, 16:]], 1)


def _q6_k(codes: _Array, multiples: _Array, d: _Array) -> _Array:
    """codes 0..63 (the level plus 32), multiples -128..127."""
    number = len(codes)
    low = (codes & 15).reshape(number, 2, 2, 64)
    high = (codes >> 4).reshape(number, 2, 4, 32)
    lows = low[:, :, 0] | low[:, :, 1] << 4
    highs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    scale = multiples.astype(np.int8).view(np.uint8)
    return np.concatenate([lows.reshape(number, 128), highs.reshape(number, 64), scale, _half(d)], 1)


def _iq4_xs(codes: _Array, multiples: _Array, d: _Array) -> _Array:
    """codes 0..15 into the codebook, multiples -32..31."""
    number = len(codes)
    scale = (multiples + 32).astype(np.uint8)
    high = (scale >> 4).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
    high_scale = np.bitwise_or.reduce(high, 1).astype("<u2").view(np.uint8).reshape(number, 2)
    low_scale = (scale[:, 0::2] & 15) | (scale[:, 1::2] & 15) << 4
    halves = codes.reshape(number, 8, 2, 16)
    low = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(number, 128)
    return np.concatenate([_half(d), high_scale, low_scale, low], 1)


def _bits(parts: _Array, width: int) -> _Array:
    """Low bits of parts [N, P, n] side by side: uint8 [N, n], the first part lowest."""
    shifts = np.arange(0, width * parts.shape[1], width, dtype=np.uint8)[None, :, None]
    return np.bitwise_or.reduce(parts.astype(np.uint8) << shifts, 1)


def _six_bits(multiples: _Array, minima: _Array) -> _Array:
    """Eight scales and eight minima of six bits in twelve bytes."""
    scale, minimum = multiples.astype(np.uint8), minima.astype(np.uint8)
    first = scale[:, :4] | (scale[:, 4:] >> 4) << 6
    second = minimum[:, :4] | (minimum[:, 4:] >> 4) << 6
    third = (scale[:, 4:] & 15) | (minimum[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], 1)


def _half(values: _Array) -> _Array:
    return np.ascontiguousarray(values, "<f2").view(np.uint8).reshape(len(values), 2)


_SCALED: dict[Type, Callable[[_Array, _Array, _Array], _Array]] = {
    Type.Q3_K: _q3_k,
    Type.Q6_K: _q6_k,
    Type.IQ4_XS: _iq4_xs,
}
_WITH_MINIMUM: dict[Type, Callable[[_Array, _Array, _Array, _Array, _Array], _Array]] = {
    Type.Q4_K: _q4_k,
    Type.Q5_K: _q5_k,
}
