"""What groups share, found in one launch: what K-quants' and FP8's `open` do in tens of them."""

import triton
import triton.language as tl

from exporters.rounding.cuda.candidates import spread
from exporters.rounding.cuda.nearest import inverse_of, nearest

_TINY = tl.constexpr(1e-30)
_SIZES = ("batches",)


@triton.jit(do_not_specialize=_SIZES)
def open_span(
    left, importance, spans, tried, table, rows, start, channels, batches,
    FORM: tl.constexpr, NUMBER: tl.constexpr, SUB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """left: [B, channels, R], of which the span from `start` on is looked at. importance: [B, channels]. spans: [S, B,
    spans, R], of which that of the span is written."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    column = tl.arange(0, SUB)
    left += (batch * channels + start) * rows + row
    importance += batch * channels + start
    most = tl.zeros([BLOCK], tl.float32)
    most_third = most
    for first in range(0, FORM.span, FORM.group):
        low = tl.zeros([BLOCK], tl.float32)
        high = tl.zeros([BLOCK], tl.float32)
        for at in range(first, first + FORM.group, SUB):
            part = tl.load(left[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
            low = tl.minimum(low, tl.min(part, 0))
            high = tl.maximum(high, tl.max(part, 0))
        least = tl.full([BLOCK], float("inf"), tl.float32)
        best, best_third = spread(0, low, high, tried, FORM)
        for k in range(NUMBER):
            scale, third = spread(k, low, high, tried, FORM)
            inverse = inverse_of(scale)
            error = tl.zeros([BLOCK], tl.float32)
            cross = tl.zeros([BLOCK], tl.float32)
            square = tl.zeros([BLOCK], tl.float32)
            for at in range(first, first + FORM.group, SUB):
                part = tl.load(left[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
                for j in tl.static_range(SUB):
                    x = tl.sum(tl.where(column[:, None] == j, part, 0.0), 0)
                    made = nearest(x, inverse, scale, third, table, FORM)
                    weight = tl.load(importance + at + j)
                    error += (x - made) * (x - made) * weight
                    if FORM.search == "scales":
                        cross += made * weight * x
                        square += made * weight * made
            if FORM.search == "scales":  # least squares for the codes of that scale
                by = tl.div_rn(cross, tl.maximum(square, _TINY))
                scale = scale * tl.where(by > 0, by, 1.0)
            better = error < least
            least = tl.where(better, error, least)
            best = tl.where(better, scale, best)
            best_third = tl.where(better, third, best_third)
        if FORM.search == "scales":
            most = tl.where(tl.abs(best) > tl.abs(most), best, most)
        else:
            most = tl.maximum(most, best)
            most_third = tl.maximum(most_third, best_third)
    number = channels // FORM.span
    at_span = (batch * number + start // FORM.span) * rows + row
    if FORM.search == "scales":
        d = tl.div_rn(most, tl.full([BLOCK], FORM.multiples_low, tl.float32)).to(tl.float16).to(tl.float32)
        tl.store(spans + at_span, d, mask=inside)
    else:
        multiples = tl.full([BLOCK], FORM.multiples_high, tl.float32)
        tl.store(spans + at_span, tl.div_rn(most, multiples).to(tl.float16).to(tl.float32), mask=inside)
        dmin = tl.div_rn(most_third, multiples).to(tl.float16).to(tl.float32)
        tl.store(spans + batches * number * rows + at_span, dmin, mask=inside)


@triton.jit
def row_errors(
    left, importance, scales, errors, rows, channels,
    FORM: tl.constexpr, NUMBER: tl.constexpr, TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """left: [B, channels, R]. scales: [B, NUMBER, R]. errors: the same, of whole rows, each square weighted by its
    column's importance [B, channels]."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.program_id(2) * TOGETHER + tl.arange(0, TOGETHER)
    places = (batch * NUMBER + k)[:, None] * rows + row[None, :]
    inside = (row < rows)[None, :] & (k < NUMBER)[:, None]
    scale = tl.load(scales + places, mask=inside, other=1.0)
    inverse = inverse_of(scale)
    left += batch * channels * rows + row
    importance += batch * channels
    error = tl.zeros([TOGETHER, BLOCK], tl.float32)
    for column in range(channels):
        x = tl.load(left, mask=row < rows, other=0.0)[None, :]
        off = x - nearest(x, inverse, scale, scale, left, FORM)
        error += off * off * tl.load(importance + column)
        left += rows
    tl.store(errors + places, error, mask=inside)
