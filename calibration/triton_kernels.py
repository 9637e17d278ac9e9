"""Triton kernels around the experts' two products: memory is read once, and what is read is counted on the way.

All sums are taken by one program in a fixed order, so the same input gives the same bits. `ends` [experts] is int64, the
end of each expert's rows where the (token, slot) pairs stand sorted by expert; `order` [pairs] int64 the pair in each
row; `place` [pairs] int32 the row of each pair. Tensors are contiguous.
"""

import triton
import triton.language as tl

TILE = 256
"""Rows of an expert that one tile of the product covers; the last tile may take `TAIL` more."""
TAIL = 32


@triton.jit
def expert_rows(ends, expert):
    """The first row of an expert and the end of its rows."""
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    return start, tl.load(ends + expert)


@triton.jit
def tile_count(rows, TILE: tl.constexpr, TAIL: tl.constexpr):
    """Tiles that cover an expert's rows: none for none, and no tile of its own for a remainder of `TAIL` or less."""
    return tl.where(rows > 0, tl.maximum((rows - TAIL + TILE - 1) // TILE, 1), 0)


@triton.jit
def schedule_tiles(ends, schedule, total, experts, EXPERTS: tl.constexpr, TILE: tl.constexpr, TAIL: tl.constexpr):
    """Writes schedule [tiles, 4] int32 (expert, first row, rows, shape) in expert order, and total [1] int32.

    The shape says what covers the rows: twice the blocks of TILE / 2 rows, plus one for a block of TAIL. One program per expert; EXPERTS is `experts` rounded up to a power of two.
    """
    expert = tl.program_id(0)
    every = tl.arange(0, EXPERTS)
    real = every < experts
    stop = tl.load(ends + every, mask=real, other=0)
    begin = tl.load(ends + every - 1, mask=real & (every > 0), other=0)
    tiles = tl.where(real, tile_count(stop - begin, TILE, TAIL), 0)
    first = tl.sum(tl.where(every < expert, tiles, 0))
    start, end = expert_rows(ends, expert)
    count = tile_count(end - start, TILE, TAIL)
    for number in range(0, count):
        row = start + number * TILE
        entry = schedule + (first + number) * 4
        tl.store(entry, expert)
        tl.store(entry + 1, row.to(tl.int32))
        rows = tl.where(number == count - 1, end - row, TILE).to(tl.int32)
        units = tl.maximum(rows - TAIL + TILE // 2 - 1, 0) // (TILE // 2)
        tl.store(entry + 2, rows)
        tl.store(entry + 3, 2 * units + (rows > units * (TILE // 2)))
    if expert == experts - 1:
        tl.store(total, (first + count).to(tl.int32))


@triton.jit
def site_statistics(
    source,
    order,
    ends,
    gathered,
    place,
    sum_sq,
    sum_abs,
    abs_max,
    width,
    top_k,
    GATHER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums of squares and magnitudes, and the largest magnitude, per expert and channel: float32 [experts, width].

    source is bfloat16: [pairs, width] in row order, or with GATHER [tokens, width], whose rows are then also copied to
    gathered [pairs, width] in row order, and `place` is written. Grid (column blocks, experts).
    """
    block, expert = tl.program_id(0), tl.program_id(1)
    start, end = expert_rows(ends, expert)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    magnitudes = tl.zeros([ROWS, COLUMNS], tl.float32)
    peaks = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, end, ROWS):
        rows = first + tl.arange(0, ROWS)
        live = rows < end
        mask = live[:, None] & inside[None, :]
        if GATHER:
            pairs = tl.load(order + rows, mask=live, other=0)
            values = tl.load(source + (pairs // top_k)[:, None] * width + columns[None, :], mask=mask, other=0.0)
            tl.store(gathered + rows[:, None] * width + columns[None, :], values, mask=mask)
            tl.store(place + pairs, rows.to(tl.int32), mask=live & (block == 0))
        else:
            values = tl.load(source + rows[:, None] * width + columns[None, :], mask=mask, other=0.0)
        magnitude = tl.abs(values.to(tl.float32))
        squares += magnitude * magnitude
        magnitudes += magnitude
        peaks = tl.maximum(peaks, magnitude)
    found = expert * width + columns
    tl.store(sum_sq + found, tl.sum(squares, 0), mask=inside)
    tl.store(sum_abs + found, tl.sum(magnitudes, 0), mask=inside)
    tl.store(abs_max + found, tl.max(peaks, 0), mask=inside)


@triton.jit
def combine(routed, place, weights, output, norms, peaks, width, TOP_K: tl.constexpr, COLUMNS: tl.constexpr):
    """output [tokens, width] bfloat16: each token's expert outputs times its gates, added in slot order in float32.

    routed [pairs, width] bfloat16 in row order; weights [pairs]. Also the L2 norm and the largest magnitude of every
    row of `routed`: norms, peaks [pairs] float32. One program per token; COLUMNS is `width` rounded up to a power of two.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < width
    total = tl.zeros([COLUMNS], tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        row = tl.load(place + pair).to(tl.int64)
        values = tl.load(routed + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(norms + row, tl.sqrt(tl.sum(values * values)))
        tl.store(peaks + row, tl.max(tl.abs(values)))
        total += tl.load(weights + pair).to(tl.float32) * values
    tl.store(output + token * width + columns, total.to(tl.bfloat16), mask=inside)


@triton.jit
def expert_totals(order, ends, weights, norms, peaks, sums, maxima, experts, ROWS: tl.constexpr):
    """sums [4, experts] float32: gates, norms, squared norms, gate x norm; maxima [2, experts] float32: norm, magnitude.

    norms, peaks [pairs] float32 in row order; weights [pairs] in pair order. One program per expert.
    """
    expert = tl.program_id(0)
    start, end = expert_rows(ends, expert)
    gate_sum = tl.zeros([ROWS], tl.float32)
    norm_sum = tl.zeros([ROWS], tl.float32)
    norm_sq_sum = tl.zeros([ROWS], tl.float32)
    saliency_sum = tl.zeros([ROWS], tl.float32)
    norm_max = tl.zeros([ROWS], tl.float32)
    peak_max = tl.zeros([ROWS], tl.float32)
    for first in range(start, end, ROWS):
        rows = first + tl.arange(0, ROWS)
        live = rows < end
        gates = tl.load(weights + tl.load(order + rows, mask=live, other=0), mask=live, other=0.0).to(tl.float32)
        norm = tl.load(norms + rows, mask=live, other=0.0)
        gate_sum += gates
        norm_sum += norm
        norm_sq_sum += norm * norm
        saliency_sum += gates * norm
        norm_max = tl.maximum(norm_max, norm)
        peak_max = tl.maximum(peak_max, tl.load(peaks + rows, mask=live, other=0.0))
    tl.store(sums + expert, tl.sum(gate_sum))
    tl.store(sums + experts + expert, tl.sum(norm_sum))
    tl.store(sums + 2 * experts + expert, tl.sum(norm_sq_sum))
    tl.store(sums + 3 * experts + expert, tl.sum(saliency_sum))
    tl.store(maxima + expert, tl.max(norm_max))
    tl.store(maxima + experts + expert, tl.max(peak_max))
