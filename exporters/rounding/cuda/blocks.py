"""A block of columns in one launch: the first pass, a sweep, and settling, as exporters.rounding.compensate does them.

Rows are independent of one another, so a program takes some rows of one weight through all groups of the block. It
holds SUB columns in registers at a time; what it made of columns before is carried into them from memory, where it lies
near. Tensors are in columns, [B, columns, R], and contiguous but for the moments and the factor, [B or 1, C, C].
"""

import triton
import triton.language as tl

from exporters.rounding.cuda.candidates import candidate, neighbor, stored
from exporters.rounding.cuda.nearest import inverse_of, nearest

_UNROLLED = tl.constexpr(4)
_TINY = tl.constexpr(1e-30)
_SIZES = ("batches",)


@triton.jit
def _carried(tile, rows_at, stride, coefficients, pitch, number, inside, SIGN: tl.constexpr):
    """tile [SUB, BLOCK] + SIGN * the sum over `number` rows (a multiple of SUB) of each one's coefficients times it."""
    for base in range(0, number, _UNROLLED):
        for step in tl.static_range(_UNROLLED):
            weight = tl.load(coefficients + (base + step) * pitch)
            row = tl.load(rows_at + (base + step) * stride, mask=inside, other=0.0)
            if SIGN > 0:
                tile += weight[:, None] * row[None, :]
            else:
                tile -= weight[:, None] * row[None, :]
    return tile


@triton.jit
def _chain(
    source, upper, pitch, inverses, errors, made, rows, inside, last, scale, third, table,
    FORM: tl.constexpr, SUB: tl.constexpr,
):  # fmt: skip
    """Rounds a group, errors carried from column to column: the sum of their squares. Errors and what is made are
    written if this is the last time.

    source, errors, made: pointers to the first column's rows; upper: to the group's first number, `pitch` to the next
    row; inverses: of its diagonal.
    """
    written = inside & last
    column = tl.arange(0, SUB)
    inverse = inverse_of(scale)
    total = tl.zeros_like(scale)
    for at in range(0, FORM.group, SUB):
        tile = tl.load(source[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
        if FORM.group > SUB:
            tile = _carried(tile, errors, rows, upper + at + column, pitch, at, inside, -1)
        for j in tl.static_range(SUB):
            x = tl.sum(tl.where(column[:, None] == j, tile, 0.0), 0)
            value = nearest(x, inverse, scale, third, table, FORM)
            error = (x - value) * tl.load(inverses + at + j)
            total += error * error
            if j + 1 < SUB:
                weight = tl.where(column > j, tl.load(upper + (at + j) * pitch + at + column), 0.0)
                tile -= weight[:, None] * error[None, :]
            tl.store(errors + (at + j) * rows, error, mask=inside if FORM.group > SUB else written)
            tl.store(made + (at + j) * rows, value, mask=written)
        if FORM.group > SUB:
            tl.debug_barrier()
    return total


@triton.jit(do_not_specialize=_SIZES)
def first_pass(
    left, upper, inverses, values, errors, parameters, spans, units, tried, table,
    rows, start, width, channels, upper_batch, batches,
    FORM: tl.constexpr, NUMBER: tl.constexpr, TIMES: tl.constexpr, SHARED: tl.constexpr, SUB: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """left: what is left of the weights, the block's columns of which change. errors: [B, width, R], written.
    parameters: [P, B, groups, R], of which the block's groups are written. inverses: of the factor's diagonal, [B or 1,
    C]. spans: [S, B, spans, R]; units: [B], of NVFP4."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    column = tl.arange(0, SUB)
    groups = channels // FORM.group
    start = start.to(tl.int64)
    left += (batch * channels + start) * rows + row
    values += (batch * channels + start) * rows + row
    errors += batch * width * rows + row
    inverses += tl.where(upper_batch > 0, batch, 0) * channels + start
    upper += batch * upper_batch + start * (channels + 1)
    parameters += (batch * groups + start // FORM.group) * rows + row
    unit = tl.load(units + batch)
    shared = tl.zeros([BLOCK], tl.float32)
    shared_third = shared
    for first in range(0, width, FORM.group):
        low = tl.zeros([BLOCK], tl.float32)
        high = tl.zeros([BLOCK], tl.float32)
        for at in range(first, first + FORM.group, SUB):
            places = left[None, :] + (at + column)[:, None] * rows
            part = tl.load(places, mask=inside[None, :], other=0.0)
            part = _carried(part, errors, rows, upper + at + column, channels, first, inside, -1)
            tl.store(places, part, mask=inside[None, :])
            low = tl.minimum(low, tl.min(part, 0))
            high = tl.maximum(high, tl.max(part, 0))
        tl.debug_barrier()
        if SHARED > 0:
            if FORM.span > 0:
                number = channels // FORM.span
                held = (batch * number + (start + first) // FORM.span) * rows + row
            else:
                number = 1
                held = batch * rows + row
            shared = tl.load(spans + held, mask=inside, other=0.0)
            if SHARED > 1:
                shared_third = tl.load(spans + batches * number * rows + held, mask=inside, other=0.0)
        best, best_third = candidate(0, low, high, shared, shared_third, unit, tried, FORM)
        least = tl.full([BLOCK], float("inf"), tl.float32)
        for k in range(TIMES):  # all candidates, and the best again
            last = k == TIMES - 1
            scale, third = candidate(k % NUMBER, low, high, shared, shared_third, unit, tried, FORM)
            scale = tl.where(last, best, scale)
            third = tl.where(last, best_third, third)
            total = _chain(
                left + first * rows, upper + first * (channels + 1), channels, inverses + first, errors + first * rows,
                values + first * rows, rows, inside, last, scale, third, table, FORM, SUB,
            )  # fmt: skip
            better = total < least
            least = tl.where(better, total, least)
            best = tl.where(better, scale, best)
            best_third = tl.where(better, third, best_third)
        at_group = first // FORM.group * rows
        tl.store(parameters + at_group, best, mask=inside)
        if FORM.levels == "zero" or FORM.levels == "minimum":
            tl.store(parameters + batches * groups * rows + at_group, best_third, mask=inside)
        tl.debug_barrier()


@triton.jit
def _fitted(held, best, moments, pitch, weights, rows, inside, scale, third, FORM: tl.constexpr, SUB: tl.constexpr):
    """What fits the codes of the values that are held by least squares, to the values that are best. weights: the sums
    of the rows of the group's moments."""
    column = tl.arange(0, SUB)
    inverse = inverse_of(scale)
    ll = tl.zeros_like(scale)
    lb = tl.zeros_like(scale)
    l1 = tl.zeros_like(scale)
    b1 = tl.zeros_like(scale)
    one = 0.0
    for at in range(0, FORM.group, SUB):
        levels = tl.load(held[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
        if FORM.search == "pairs":
            levels = (levels + third[None, :]) * inverse[None, :]
        tile = tl.zeros_like(levels)
        for base in range(0, FORM.group, _UNROLLED):
            for step in tl.static_range(_UNROLLED):
                weight = tl.load(moments + (base + step) * pitch + at + column)
                row = tl.load(held + (base + step) * rows, mask=inside, other=0.0)
                if FORM.search == "pairs":
                    row += third
                tile += weight[:, None] * row[None, :]
        if FORM.search == "pairs":
            tile = tile * inverse[None, :]
        wanted = tl.load(best[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
        ll += tl.sum(tile * levels, 0)
        lb += tl.sum(tile * wanted, 0)
        if FORM.search == "pairs":
            sums = tl.load(weights + at + column)
            l1 += tl.sum(sums[:, None] * levels, 0)
            b1 += tl.sum(sums[:, None] * wanted, 0)
            one += tl.sum(sums, 0)
    if FORM.search == "pairs":
        determinant = ll * one - l1 * l1
        sound = determinant > 1e-6 * ll * one
        determinant = tl.where(sound, determinant, 1.0)
        fitted = tl.where(sound, tl.div_rn(lb * one - l1 * b1, determinant), scale)
        fitted_third = tl.where(sound, tl.div_rn(lb * l1 - ll * b1, determinant), third)
    else:
        fitted = tl.div_rn(scale * lb, tl.maximum(ll, _TINY))
        fitted_third = third
        if FORM.search == "ends":
            fitted = tl.where(fitted > 0, stored(fitted, FORM), scale)
    return fitted, fitted_third


@triton.jit(do_not_specialize=_SIZES)
def sweep(
    gradient, values, moments, own, turned, inverses, weights, parameters, spans, units, near, table, moved, scratch,
    rows, start, width, channels, moments_batch, batches,
    FORM: tl.constexpr, NUMBER: tl.constexpr, TIMES: tl.constexpr, SHARED: tl.constexpr, SUB: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """values and parameters change. moved: [B, width, R], written. own: the factors of the groups' own moments, [B or
    1, groups, group, group], and `turned` their transposes; inverses: of their diagonals, [B or 1, C]; weights: the
    sums of the rows of the groups' moments, [B or 1, C]. scratch: [B, 3 * group, R]."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    column = tl.arange(0, SUB)
    groups = channels // FORM.group
    start = start.to(tl.int64)
    gradient += (batch * channels + start) * rows + row
    values += (batch * channels + start) * rows + row
    moved += batch * width * rows + row
    slopes = scratch + batch * (3 * FORM.group) * rows + row
    reduced = slopes + FORM.group * rows
    wanted = reduced + FORM.group * rows
    parameters += (batch * groups + start // FORM.group) * rows + row
    moments += batch * moments_batch + start * (channels + 1)
    known = tl.where(moments_batch > 0, batch, 0) * channels + start
    own += known * FORM.group
    turned += known * FORM.group
    inverses += known
    weights += known
    unit = tl.load(units + batch)
    shared = tl.zeros([BLOCK], tl.float32)
    shared_third = shared
    for first in range(0, width, FORM.group):
        factor = own + first * FORM.group
        for at in range(0, FORM.group, SUB):
            tile = tl.load(gradient[None, :] + (first + at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
            tile = _carried(tile, moved, rows, moments + first + at + column, channels, first, inside, 1)
            tl.store(slopes[None, :] + (at + column)[:, None] * rows, tile, mask=inside[None, :])
        tl.debug_barrier()
        # H_gg^-1 g = U^T (U g): how far from the held values the best ones are while all others stay.
        before = tl.zeros([BLOCK], tl.float32)
        for at in range(0, FORM.group, SUB):
            tile = tl.zeros([SUB, BLOCK], tl.float32)
            across = turned + (first + at) * FORM.group + at + column
            tile = _carried(tile, slopes + at * rows, rows, across, FORM.group, FORM.group - at, inside, 1)
            before += tl.sum(tile * tile, 0)
            tl.store(reduced[None, :] + (at + column)[:, None] * rows, tile, mask=inside[None, :])
        tl.debug_barrier()
        held = values + first * rows
        for at in range(0, FORM.group, SUB):
            tile = tl.load(held[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
            tile = _carried(tile, reduced, rows, factor + at + column, FORM.group, at + SUB, inside, -1)
            tl.store(wanted[None, :] + (at + column)[:, None] * rows, tile, mask=inside[None, :])
        tl.debug_barrier()
        at_group = first // FORM.group * rows
        scale = tl.load(parameters + at_group, mask=inside, other=1.0)
        third = scale
        if FORM.levels == "zero" or FORM.levels == "minimum":
            third = tl.load(parameters + batches * groups * rows + at_group, mask=inside, other=0.0)
        if SHARED > 0 and FORM.span > 0:
            number = channels // FORM.span
            at_span = (batch * number + (start + first) // FORM.span) * rows + row
            shared = tl.load(spans + at_span, mask=inside, other=0.0)
            if SHARED > 1:
                shared_third = tl.load(spans + batches * number * rows + at_span, mask=inside, other=0.0)
        fitted, fitted_third = scale, third
        if FORM.search == "ends" or FORM.search == "scales" or FORM.search == "pairs":
            fitted, fitted_third = _fitted(
                held, wanted, moments + first * (channels + 1), channels, weights + first, rows, inside, scale, third,
                FORM, SUB,
            )  # fmt: skip
        best, best_third = neighbor(0, scale, third, fitted, fitted_third, shared, shared_third, unit, near, FORM)
        made = moved + first * rows
        least = tl.full([BLOCK], float("inf"), tl.float32)
        for k in range(TIMES):
            last = k == TIMES - 1
            tried, tried_third = neighbor(
                k % NUMBER, scale, third, fitted, fitted_third, shared, shared_third, unit, near, FORM
            )
            tried = tl.where(last, best, tried)
            tried_third = tl.where(last, best_third, tried_third)
            total = _chain(
                wanted, factor, FORM.group, inverses + first, slopes, made, rows, inside, last, tried, tried_third,
                table, FORM, SUB,
            )  # fmt: skip
            better = total < least
            least = tl.where(better, total, least)
            best = tl.where(better, tried, best)
            best_third = tl.where(better, tried_third, best_third)
        better = least < before
        tl.store(parameters + at_group, tl.where(better, best, scale), mask=inside)
        if FORM.levels == "zero" or FORM.levels == "minimum":
            best_third = tl.where(better, best_third, third)
            tl.store(parameters + batches * groups * rows + at_group, best_third, mask=inside)
        tl.debug_barrier()
        for at in range(0, FORM.group, SUB):
            places = (at + column)[:, None] * rows
            old = tl.load(held[None, :] + places, mask=inside[None, :], other=0.0)
            new = tl.load(made[None, :] + places, mask=inside[None, :], other=0.0)
            new = tl.where(better[None, :], new, old)
            tl.store(held[None, :] + places, new, mask=inside[None, :])
            tl.store(made[None, :] + places, new - old, mask=inside[None, :])
        tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
def settle(
    gradient, values, moments, inverses, parameters, table, moved,
    rows, start, width, channels, moments_batch, batches,
    FORM: tl.constexpr, SUB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One code after the other; values change. inverses: of the moments' diagonal, [B or 1, C]. moved: [B, width, R],
    written."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    column = tl.arange(0, SUB)
    groups = channels // FORM.group
    start = start.to(tl.int64)
    gradient += (batch * channels + start) * rows + row
    values += (batch * channels + start) * rows + row
    moved += batch * width * rows + row
    parameters += batch * groups * rows + row
    inverses += tl.where(moments_batch > 0, batch, 0) * channels + start
    moments += batch * moments_batch + start * (channels + 1)
    for at in range(0, width, SUB):
        at_group = (start + at) // FORM.group * rows
        scale = tl.load(parameters + at_group, mask=inside, other=1.0)
        third = scale
        if FORM.levels == "zero" or FORM.levels == "minimum":
            third = tl.load(parameters + batches * groups * rows + at_group, mask=inside, other=0.0)
        inverse = inverse_of(scale)
        tile = tl.load(gradient[None, :] + (at + column)[:, None] * rows, mask=inside[None, :], other=0.0)
        tile = _carried(tile, moved, rows, moments + at + column, channels, at, inside, 1)
        for j in tl.static_range(SUB):
            slope = tl.sum(tl.where(column[:, None] == j, tile, 0.0), 0)
            held = tl.load(values + (at + j) * rows, mask=inside, other=0.0)
            best = held - slope * tl.load(inverses + at + j)
            new = nearest(best, inverse, scale, third, table, FORM)
            if j + 1 < SUB:
                weight = tl.where(column > j, tl.load(moments + (at + j) * channels + at + column), 0.0)
                tile += weight[:, None] * (new - held)[None, :]
            tl.store(values + (at + j) * rows, new, mask=inside)
            tl.store(moved + (at + j) * rows, new - held, mask=inside)
        tl.debug_barrier()
