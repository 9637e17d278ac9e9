"""The searches of Q3_K, Q6_K, Q4_0 and Q5_0: make_qx_quants and make_q3_quants of ggml-quants.c."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from exporters.ggml.cuda.arithmetic import EXACT, LANES, SIZES, load_block, nearest, ratio, store_codes, weights_of

_SMALLEST = tl.constexpr(1e-15)
"""A block whose weights are all smaller is one of zeros."""


@dataclass(frozen=True)
class Symmetric:
    """What a search finds for B blocks: value = scale * (code - top).

    scales, weights: float32 [B], the latter the sums of the weights; codes: uint8 [B, N], zeros for a block of zeros.
    """

    scales: torch.Tensor
    weights: torch.Tensor
    codes: torch.Tensor


@triton.jit
def largest(xs, N: tl.constexpr):
    """The first of largest magnitude, and its magnitude."""
    size = tl.zeros_like(xs[0])
    signed = tl.zeros_like(xs[0])
    for i in tl.static_range(N):
        larger = tl.abs(xs[i]) > size
        size = tl.where(larger, tl.abs(xs[i]), size)
        signed = tl.where(larger, xs[i], signed)
    return signed, size


@triton.jit
def _level(value, TOP: tl.constexpr):
    return tl.maximum(tl.minimum(nearest(value), TOP - 1), -TOP)


@triton.jit(do_not_specialize=SIZES)
def _search(
    values,
    importance,
    mean_squares,
    scales,
    sums,
    codes,
    blocks,
    row_blocks,
    shared,
    N: tl.constexpr,
    KIND: tl.constexpr,
    TOP: tl.constexpr,
    LANES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = block < blocks
    xs = load_block(values, block, inside, N)
    mean_square = tl.load(mean_squares + block // shared, mask=inside, other=0)
    ws = weights_of(xs, importance, block % row_blocks, mean_square, inside, N, KIND)
    signed, size = largest(xs, N)
    empty = size < _SMALLEST
    factor = ratio(tl.full([LANES], -TOP, tl.float32), signed)
    scale = tl.zeros([LANES], tl.float32)
    best = tl.zeros([LANES], tl.float32)
    sum_w = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(N):
        sum_w = sum_w + ws[i]
    for step in range(19):  # the first as it is, then 9 smaller and 9 larger ones
        tries = tl.full([LANES], 0, tl.int32) + step
        first = tries == 0
        away = (tries + tl.where(tries > 9, -9, -10)).to(tl.float32)
        tried = tl.where(first, factor, ratio(-(away * 0.1 + TOP), signed))
        sum_lx = tl.zeros([LANES], tl.float32)
        sum_l2 = tl.zeros([LANES], tl.float32)
        for i in tl.static_range(N):
            level = _level(tried * xs[i], TOP).to(tl.float32)
            sum_lx = sum_lx + ws[i] * xs[i] * level
            sum_l2 = sum_l2 + ws[i] * level * level
        fit = tl.where(sum_l2 != 0, ratio(sum_lx, sum_l2), 0.0)
        better = first | ((sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2))
        scale = tl.where(better, fit, scale)
        best = tl.where(better, fit * sum_lx, best)
        factor = tl.where(better, tried, factor)
    found = ()
    for i in tl.static_range(N):
        found = found + (tl.where(empty, 0, _level(factor * xs[i], TOP) + TOP),)
    store_codes(codes, block, inside, found, N)
    tl.store(scales + block, tl.where(empty, 0.0, scale), mask=inside)
    tl.store(sums + block, sum_w, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _refined_search(
    values,
    importance,
    mean_squares,
    scales,
    sums,
    codes,
    blocks,
    row_blocks,
    shared,
    N: tl.constexpr,
    KIND: tl.constexpr,
    TOP: tl.constexpr,
    LANES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = block < blocks
    xs = load_block(values, block, inside, N)
    ws = weights_of(xs, importance, block, 0.0, inside, N, KIND)
    signed, size = largest(xs, N)
    empty = size < _SMALLEST
    factor = ratio(tl.full([LANES], -TOP, tl.float32), signed)
    held = ()
    sum_lx = tl.zeros([LANES], tl.float32)
    sum_l2 = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(N):
        level = _level(factor * xs[i], TOP).to(tl.float32)
        held = held + (level,)
        sum_lx = sum_lx + ws[i] * xs[i] * level
        sum_l2 = sum_l2 + ws[i] * level * level
    for _ in range(5):  # ggml stops once nothing moves, and then nothing would
        moved = ()
        for i in tl.static_range(N):
            weighted = ws[i] * xs[i]
            lx = sum_lx - weighted * held[i]
            l2 = sum_l2 - ws[i] * held[i] * held[i]
            new = _level(ratio(xs[i] * l2, lx), TOP).to(tl.float32)
            move = (lx > 0) & (new != held[i])
            lx = lx + weighted * new
            l2 = l2 + ws[i] * new * new
            move = move & (l2 > 0) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            moved = moved + (tl.where(move, new, held[i]),)
            sum_lx = tl.where(move, lx, sum_lx)
            sum_l2 = tl.where(move, l2, sum_l2)
        held = moved
    found = ()
    for i in tl.static_range(N):
        found = found + (tl.where(empty, 0.0, held[i] + TOP),)
    store_codes(codes, block, inside, found, N)
    scale = tl.where(sum_l2 > 0, ratio(sum_lx, sum_l2), 0.0)
    tl.store(scales + block, tl.where(empty, 0.0, scale), mask=inside)
    tl.store(sums + block, sum_l2, mask=inside)


def search_symmetric(
    values: torch.Tensor,
    size: int,
    top: int,
    kind: tl.constexpr,
    importance: torch.Tensor | None = None,
    mean_squares: torch.Tensor | None = None,
    *,
    shared: int = 1,
    refine: bool = False,
) -> Symmetric:
    """Search the scale of each `size` contiguous values (BF16, F16 or F32, on a CUDA device); codes are 0..2*top - 1.

    kind: how importance, float32 [columns], and mean_squares, float32, one to `shared` blocks, make the weights of the
    error (see exporters.ggml.cuda.arithmetic). refine: move one code after the other instead of trying scales.
    """
    blocks = values.numel() // size
    scales, weights = (values.new_empty(blocks, dtype=torch.float32) for _ in range(2))
    codes = values.new_empty(blocks, size, dtype=torch.uint8)
    (_refined_search if refine else _search)[(triton.cdiv(blocks, LANES),)](
        values,
        scales if importance is None else importance,
        scales if mean_squares is None else mean_squares,
        scales,
        weights,
        codes,
        blocks,
        1 if importance is None else importance.numel() // size,
        shared,
        N=size,
        KIND=kind,
        TOP=top,
        LANES=LANES,
        **EXACT,
    )
    return Symmetric(scales, weights, codes)
