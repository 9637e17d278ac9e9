"""What all searches on the GPU share: ggml's rounding, its weights, sums in its order.

Bytes equal ggml's only where every float32 operation is the one that ggml's C code makes, in its order. So nothing is
contracted to a fused multiply-add (every kernel is launched with `EXACT`), quotients and roots are rounded as IEEE 754
wants, and a lane takes a block's weights one after the other, as the C loop does.
"""

import torch
import triton
import triton.language as tl

EXACT = {"enable_fp_fusion": False}
"""Options of every launch."""

SIZES = ("blocks", "row_blocks", "shared", "groups", "size")
"""Arguments whose values make no other kernel."""

LANES = 128
"""Blocks to a program: one to a thread."""

IMPORTANCE = tl.constexpr(0)
"""Weight of x: importance * sqrt(mean square + x^2)."""
SPREAD = tl.constexpr(1)
"""Weight of x: root of the block's mean square + |x|."""
MAGNITUDE = tl.constexpr(2)
"""Weight of x: |x|."""
SQUARE = tl.constexpr(3)
"""Weight of x: x^2."""
GIVEN = tl.constexpr(4)
"""Weight of x: what stands beside it."""


@triton.jit
def nearest(value):
    """ggml's nearest_int, for values beyond 2^22 too; a NaN is x86's, whose bits below the quiet one are 0."""
    bits = (value + 12582912.0).to(tl.int32, bitcast=True)
    return tl.where(value == value, (bits & 0x7FFFFF) - 0x400000, 0)


@triton.jit
def ratio(a, b):
    return tl.math.div_rn(a, b)


@triton.jit
def load_block(values, block, inside, N: tl.constexpr):
    """The N weights of each lane's block as a tuple of float32 [LANES]."""
    places = block[:, None] * N + tl.arange(0, N)[None, :]
    return _columns(tl.load(values + places, mask=inside[:, None], other=0).to(tl.float32), N)


@triton.jit
def _columns(tile, N: tl.constexpr):
    """[LANES, N] as a tuple of N. One load for all: Triton's compiler is slow where many meet in one computation."""
    if N == 1:
        return (tl.reshape(tile, [tile.shape[0]]),)
    else:
        even, odd = tl.split(tl.reshape(tile, [tile.shape[0], N // 2, 2]))
        evens = _columns(even, N // 2)
        odds = _columns(odd, N // 2)
        found = ()
        for i in tl.static_range(N // 2):
            found = found + (evens[i], odds[i])
        return found


@triton.jit
def weights_of(xs, importance, row_block, mean_square, inside, N: tl.constexpr, KIND: tl.constexpr):
    """The weight of each of `xs` in the error, by KIND. row_block: index of the block among those of importance."""
    found = ()
    if KIND == IMPORTANCE or KIND == GIVEN:
        given = load_block(importance, row_block, inside, N)
    if KIND == SPREAD:
        total = tl.zeros_like(xs[0])
        for i in tl.static_range(N):
            total = total + xs[i] * xs[i]
        mean_square = tl.math.sqrt_rn(total * (1.0 / N))
    for i in tl.static_range(N):
        if KIND == IMPORTANCE:
            weight = given[i] * tl.math.sqrt_rn(mean_square + xs[i] * xs[i])
        elif KIND == GIVEN:
            weight = given[i]
        elif KIND == SPREAD:
            weight = mean_square + tl.abs(xs[i])
        elif KIND == MAGNITUDE:
            weight = tl.abs(xs[i])
        else:
            weight = xs[i] * xs[i]
        found = found + (weight,)
    return found


@triton.jit
def store_codes(codes, block, inside, found, N: tl.constexpr):
    """Write a tuple of N integers [LANES] as the codes of each lane's block."""
    places = block[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(codes + places, _tile(found, N).to(tl.uint8), mask=inside[:, None])


@triton.jit
def _tile(columns, N: tl.constexpr):
    """A tuple of N as [LANES, N]."""
    if N == 1:
        return tl.reshape(columns[0], [columns[0].shape[0], 1])
    else:
        evens = ()
        odds = ()
        for i in tl.static_range(N // 2):
            evens = evens + (columns[2 * i],)
            odds = odds + (columns[2 * i + 1],)
        joined = tl.join(_tile(evens, N // 2), _tile(odds, N // 2))
        return tl.reshape(joined, [columns[0].shape[0], N])


@triton.jit(do_not_specialize=SIZES)
def _sums_of_squares(values, sums, groups, size, LANES: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = group < groups
    total = tl.zeros([LANES], tl.float32)
    for i in range(size):
        x = tl.load(values + group * size + i, mask=inside, other=0).to(tl.float32)
        total = total + x * x
    tl.store(sums + group, total, mask=inside)


def sums_of_squares(values: torch.Tensor, size: int) -> torch.Tensor:
    """Float32 sums of the squares of each `size` values that follow one another, added in that order."""
    groups = values.numel() // size
    sums = values.new_empty(groups, dtype=torch.float32)
    _sums_of_squares[(triton.cdiv(groups, LANES),)](values, sums, groups, size, LANES=LANES, **EXACT)
    return sums
