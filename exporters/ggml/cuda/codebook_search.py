"""The search of IQ4_XS and IQ4_NL: quantize_row_iq4_nl_impl of ggml-quants.c."""

from itertools import pairwise

import torch
import triton
import triton.language as tl

from exporters.ggml.cuda.arithmetic import EXACT, LANES, SIZES, load_block, ratio, weights_of
from exporters.ggml.cuda.symmetric_search import largest

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
BOUNDS = tuple((low + high) / 2 for low, high in pairwise(LEVELS))
"""A value at a bound takes the level above: ggml compares the float32 distances to both, and close to these bounds they
are exact."""

_LEVELS = tl.constexpr(LEVELS)
_BOUNDS = tl.constexpr(BOUNDS)
_TRIES = 7


@triton.jit(do_not_specialize=SIZES)
def _search(
    values,
    importance,
    mean_squares,
    scales,
    blocks,
    row_blocks,
    shared,
    N: tl.constexpr,
    KIND: tl.constexpr,
    TRIES: tl.constexpr,
    LANES: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = block < blocks
    xs = load_block(values, block, inside, N)
    mean_square = tl.load(mean_squares + block // shared, mask=inside, other=0)
    ws = weights_of(xs, importance, block % row_blocks, mean_square, inside, N, KIND)
    signed, size = largest(xs, N)
    one = tl.full([LANES], 1.0, tl.float32)
    first_factor = ratio(one, ratio(-signed, one * _LEVELS[0]))
    scale = tl.zeros([LANES], tl.float32)
    best = tl.zeros([LANES], tl.float32)
    for step in range(2 * TRIES + 2):  # the first as it is, then -TRIES..TRIES levels from the lowest one
        tries = tl.full([LANES], 0, tl.int32) + step
        first = tries == 0
        level = (tries + (_LEVELS[0] - TRIES - 1)).to(tl.float32)
        factor = tl.where(first, first_factor, ratio(level, signed))
        sum_qx = tl.zeros([LANES], tl.float32)
        sum_q2 = tl.zeros([LANES], tl.float32)
        for i in tl.static_range(N):
            scaled = factor * xs[i]
            q = tl.full([LANES], _LEVELS[0], tl.float32)
            for j in tl.static_range(15):
                q = tl.where(scaled >= _BOUNDS[j], _LEVELS[j + 1] * 1.0, q)
            weighted = ws[i] * q
            sum_qx = sum_qx + weighted * xs[i]
            sum_q2 = sum_q2 + weighted * q
        positive = sum_q2 > 0
        fit = tl.where(positive, ratio(sum_qx, sum_q2), 0.0)
        better = first | (positive & (sum_qx * sum_qx > best * sum_q2))
        scale = tl.where(better, fit, scale)
        best = tl.where(better, fit * sum_qx, best)
    tl.store(scales + block, tl.where(size < 1e-15, 0.0, scale), mask=inside)


def search_codebook(
    values: torch.Tensor,
    size: int,
    kind: tl.constexpr,
    importance: torch.Tensor | None = None,
    mean_squares: torch.Tensor | None = None,
    *,
    shared: int = 1,
) -> torch.Tensor:
    """Scales, float32 [B], of each `size` contiguous values (BF16, F16 or F32, on a CUDA device).

    kind: how importance, float32 [columns], and mean_squares, float32, one to `shared` blocks, make the weights of the
    error (see exporters.ggml.cuda.arithmetic).
    """
    blocks = values.numel() // size
    scales = values.new_empty(blocks, dtype=torch.float32)
    _search[(triton.cdiv(blocks, LANES),)](
        values,
        scales if importance is None else importance,
        scales if mean_squares is None else mean_squares,
        scales,
        blocks,
        1 if importance is None else importance.numel() // size,
        shared,
        N=size,
        KIND=kind,
        TRIES=_TRIES,
        LANES=LANES,
        **EXACT,
    )
    return scales
