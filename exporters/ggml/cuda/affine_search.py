"""The searches of Q2_K, Q4_K, Q5_K, Q4_1 and Q5_1.

make_qkx2_quants, make_qkx3_quants and make_qp_quants of ggml-quants.c.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from exporters.ggml.cuda.arithmetic import EXACT, LANES, SIZES, load_block, nearest, ratio, store_codes, weights_of


@dataclass(frozen=True)
class Grid:
    """The scales that a search tries: it fits the block to (first + step * n + top) levels, n = 0..steps."""

    top: int
    first: float
    step: float
    steps: int


@triton.jit(do_not_specialize=SIZES)
def _search(
    values,
    importance,
    mean_squares,
    scales,
    minimums,
    sums,
    codes,
    blocks,
    row_blocks,
    shared,
    N: tl.constexpr,
    KIND: tl.constexpr,
    ABSOLUTE: tl.constexpr,
    TOP: tl.constexpr,
    FIRST: tl.constexpr,
    STEP: tl.constexpr,
    STEPS: tl.constexpr,
    LANES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = block < blocks
    xs = load_block(values, block, inside, N)
    mean_square = tl.load(mean_squares + block // shared, mask=inside, other=0)
    ws = weights_of(xs, importance, block % row_blocks, mean_square, inside, N, KIND)
    low = xs[0]
    high = xs[0]
    sum_w = ws[0]
    sum_x = ws[0] * xs[0]
    for i in tl.static_range(1, N):
        low = tl.where(xs[i] < low, xs[i], low)
        high = tl.where(xs[i] > high, xs[i], high)
        sum_w = sum_w + ws[i]
        sum_x = sum_x + ws[i] * xs[i]
    low = tl.where(low > 0, 0.0, low)
    flat = high <= low
    factor = ratio(tl.full([LANES], TOP, tl.float32), high - low)
    scale = ratio(tl.full([LANES], 1.0, tl.float32), factor)
    best = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(N):
        level = tl.maximum(tl.minimum(nearest(factor * (xs[i] - low)), TOP), 0).to(tl.float32)
        off = scale * level + low - xs[i]
        off = tl.abs(off) if ABSOLUTE else off * off
        best = best + ws[i] * off
    lowest = low
    base = low
    count = tl.zeros([LANES], tl.float32)
    for _ in range(STEPS + 1):
        tried = ratio(count * STEP + FIRST + TOP, high - low)
        count = count + 1.0
        sum_l = tl.zeros([LANES], tl.float32)
        sum_l2 = tl.zeros([LANES], tl.float32)
        sum_xl = tl.zeros([LANES], tl.float32)
        for i in tl.static_range(N):
            level = tl.maximum(tl.minimum(nearest(tried * (xs[i] - low)), TOP), 0).to(tl.float32)
            weighted = ws[i] * level
            sum_l = sum_l + weighted
            sum_l2 = sum_l2 + weighted * level
            sum_xl = sum_xl + weighted * xs[i]
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = ratio(sum_w * sum_xl - sum_x * sum_l, determinant)
        new_low = ratio(sum_l2 * sum_x - sum_l * sum_xl, determinant)
        above = new_low > 0
        new_scale = tl.where(above, ratio(sum_xl, sum_l2), new_scale)
        new_low = tl.where(above, 0.0, new_low)
        error = tl.zeros([LANES], tl.float32)
        for i in tl.static_range(N):
            level = tl.maximum(tl.minimum(nearest(tried * (xs[i] - low)), TOP), 0).to(tl.float32)
            off = new_scale * level + new_low - xs[i]
            off = tl.abs(off) if ABSOLUTE else off * off
            error = error + ws[i] * off
        better = (determinant > 0) & (error < best)
        best = tl.where(better, error, best)
        scale = tl.where(better, new_scale, scale)
        factor = tl.where(better, tried, factor)
        base = tl.where(better, low, base)
        low = tl.where(better, new_low, low)
    found = ()
    for i in tl.static_range(N):
        level = tl.maximum(tl.minimum(nearest(factor * (xs[i] - base)), TOP), 0)
        found = found + (tl.where(flat, 0, level),)
    store_codes(codes, block, inside, found, N)
    tl.store(scales + block, tl.where(flat, 0.0, scale), mask=inside)
    # A negation would be 0 - low to Triton, and a minimum of 0 lose its sign.
    tl.store(minimums + block, tl.where(flat, lowest, low) * -1.0, mask=inside)
    tl.store(sums + block, sum_w, mask=inside)


@dataclass(frozen=True)
class Affine:
    """What a search finds for B blocks: value = scale * code - minimum.

    scales, minimums, weights: float32 [B], the last the sums of the weights; codes: uint8 [B, N].
    """

    scales: torch.Tensor
    minimums: torch.Tensor
    weights: torch.Tensor
    codes: torch.Tensor


def search_affine(
    values: torch.Tensor,
    size: int,
    grid: Grid,
    kind: tl.constexpr,
    importance: torch.Tensor | None = None,
    mean_squares: torch.Tensor | None = None,
    *,
    shared: int = 1,
    absolute: bool = False,
) -> Affine:
    """Search scale and minimum of each `size` contiguous values (BF16, F16 or F32, on a CUDA device).

    kind: how importance, float32 [columns], and mean_squares, float32, one to `shared` blocks, make the weights of the
    error (see exporters.ggml.cuda.arithmetic). absolute: the error is |x| and not its square.
    """
    blocks = values.numel() // size
    scales, minimums, weights = (values.new_empty(blocks, dtype=torch.float32) for _ in range(3))
    codes = values.new_empty(blocks, size, dtype=torch.uint8)
    _search[(triton.cdiv(blocks, LANES),)](
        values,
        scales if importance is None else importance,
        scales if mean_squares is None else mean_squares,
        scales,
        minimums,
        weights,
        codes,
        blocks,
        1 if importance is None else importance.numel() // size,
        shared,
        N=size,
        KIND=kind,
        ABSOLUTE=absolute,
        TOP=grid.top,
        FIRST=grid.first,
        STEP=grid.step,
        STEPS=grid.steps,
        LANES=LANES,
        **EXACT,
    )
    return Affine(scales, minimums, weights, codes)


@triton.jit(do_not_specialize=SIZES)
def _positive_search(values, weights, scales, codes, groups, N: tl.constexpr, TOP: tl.constexpr, LANES: tl.constexpr):
    group = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = group < groups
    xs = load_block(values, group, inside, N)
    ws = load_block(weights, group, inside, N)
    top = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(N):
        top = tl.where(top > xs[i], top, xs[i])
    empty = top < 1e-15
    factor = ratio(tl.full([LANES], TOP, tl.float32), top)
    scale = ratio(tl.full([LANES], 1.0, tl.float32), factor)
    best = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(N):
        off = xs[i] - scale * (nearest(factor * xs[i]) & 0xFF).to(tl.float32)
        best = best + ws[i] * off * off
    for step in range(8):  # four smaller and four larger ones
        tries = tl.full([LANES], 0, tl.int32) + step
        away = (tries + tl.where(tries > 3, -3, -4)).to(tl.float32)
        tried = ratio(away * 0.1 + TOP, top)
        scale = ratio(tl.full([LANES], 1.0, tl.float32), tried)
        error = tl.zeros([LANES], tl.float32)
        for i in tl.static_range(N):
            off = xs[i] - scale * tl.minimum(nearest(tried * xs[i]), TOP).to(tl.float32)
            error = error + ws[i] * off * off
        factor = tl.where(error < best, tried, factor)
        best = tl.where(error < best, error, best)
    held = ()
    sum_lx = tl.zeros([LANES], tl.float32)
    sum_l2 = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(N):
        level = tl.minimum(nearest(factor * xs[i]), TOP)
        held = held + (level & 0xFF,)
        level = level.to(tl.float32)
        sum_lx = sum_lx + ws[i] * xs[i] * level
        sum_l2 = sum_l2 + ws[i] * level * level
    for _ in range(5):  # ggml stops once nothing moves, and then nothing would
        moved = ()
        for i in tl.static_range(N):
            old = held[i].to(tl.float32)
            lx = sum_lx - ws[i] * xs[i] * old
            l2 = sum_l2 - ws[i] * old * old
            new = tl.minimum(nearest(ratio(xs[i] * l2, lx)), TOP)
            move = (lx > 0) & (l2 > 0) & (new != held[i])
            level = new.to(tl.float32)
            lx = lx + ws[i] * xs[i] * level
            l2 = l2 + ws[i] * level * level
            move = move & (lx * lx * sum_l2 > sum_lx * sum_lx * l2)
            moved = moved + (tl.where(move, new & 0xFF, held[i]),)
            sum_lx = tl.where(move, lx, sum_lx)
            sum_l2 = tl.where(move, l2, sum_l2)
        held = moved
    found = ()
    for i in tl.static_range(N):
        found = found + (tl.where(empty, 0, held[i]),)
    store_codes(codes, group, inside, found, N)
    scale = tl.where(sum_l2 > 0, ratio(sum_lx, sum_l2), 0.0)
    tl.store(scales + group, tl.where(empty, 0.0, scale), mask=inside)


def search_positive(values: torch.Tensor, weights: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One scale for each row of values [S, N] of zero and above: scales float32 [S] and codes uint8 [S, N], 0..top.

    weights: float32 [S, N], of the squared errors.
    """
    groups, size = values.shape
    scales = values.new_empty(groups)
    codes = torch.empty_like(values, dtype=torch.uint8)
    _positive_search[(triton.cdiv(groups, LANES),)](
        values, weights, scales, codes, groups, N=size, TOP=top, LANES=LANES, **EXACT
    )
    return scales, codes
