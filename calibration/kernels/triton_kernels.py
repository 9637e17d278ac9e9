"""Triton kernels around the experts' two products: memory is read once, and what is read is counted on the way.

The pairs of token and slot (token x top-k + slot) are in rows, sorted by expert and within it by pair: `order` [pairs]
int64 is the pair in each row, `place` [pairs] int32 the row of each pair, `ends` [experts] int64 the end of each
expert's rows. A tile is up to TILE + TAIL rows of one expert; `schedule` [tiles, 4] int32 lists them in row order.
Every sum is taken in a fixed order, so the same input gives the same bits. Tensors are contiguous.
"""

import triton
import triton.language as tl

TILE = 256
TAIL = 32


@triton.jit
def count_pairs(index, found, pairs, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """found [blocks, EXPERTS] int32: how often each expert is in each block of the index [pairs] int64."""
    block = tl.program_id(0)
    pair = block * BLOCK + tl.arange(0, BLOCK)
    live = pair < pairs
    expert = tl.load(index + pair, mask=live, other=0).to(tl.int32)
    bins = tl.arange(0, EXPERTS)
    tl.store(found + block * EXPERTS + bins, tl.histogram(expert, EXPERTS, mask=live))


@triton.jit
def scan_blocks(found, counts, blocks, EXPERTS: tl.constexpr, BLOCKS: tl.constexpr):
    """Turns `found` into the number of an expert's pairs in the blocks before; their sum is counts [experts] int64.

    One program per expert.
    """
    expert = tl.program_id(0)
    before = 0
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        at = found + block * EXPERTS + expert
        here = tl.load(at, mask=block < blocks, other=0)
        tl.store(at, before + tl.cumsum(here, 0) - here, mask=block < blocks)
        before += tl.sum(here)
    tl.store(counts + expert, before)


@triton.jit
def tiles_of(rows, TILE: tl.constexpr, TAIL: tl.constexpr):
    """Tiles that cover an expert's rows: none for none, and none of its own for a remainder of TAIL or less."""
    return tl.where(rows > 0, tl.maximum((rows - TAIL + TILE - 1) // TILE, 1), 0)


@triton.jit
def schedule_tiles(
    counts, ends, schedule, first_tile, experts, EXPERTS: tl.constexpr, TILE: tl.constexpr, TAIL: tl.constexpr
):
    """Writes `ends`, `schedule` and first_tile [experts + 1] int32, whose last entry is the number of tiles.

    A tile is (expert, first row, rows, shape); the shape says what covers the rows: twice the blocks of TILE / 2 rows,
    plus one for a block of TAIL. One program per expert.
    """
    expert = tl.program_id(0)
    every = tl.arange(0, EXPERTS)
    rows = tl.load(counts + every, mask=every < experts, other=0)
    start = tl.sum(tl.where(every < expert, rows, 0))
    first = tl.sum(tl.where(every < expert, tiles_of(rows, TILE, TAIL), 0)).to(tl.int32)
    end = start + tl.load(counts + expert)
    count = tiles_of(end - start, TILE, TAIL)
    for number in range(count):
        row = start + number * TILE
        height = tl.where(number == count - 1, end - row, TILE).to(tl.int32)
        units = tl.maximum(height - TAIL + TILE // 2 - 1, 0) // (TILE // 2)
        entry = schedule + (first + number) * 4
        tl.store(entry, expert)
        tl.store(entry + 1, row.to(tl.int32))
        tl.store(entry + 2, height)
        tl.store(entry + 3, 2 * units + (height > units * (TILE // 2)))
    tl.store(ends + expert, end)
    tl.store(first_tile + expert, first)
    tl.store(first_tile + experts, first + count.to(tl.int32), mask=expert == experts - 1)


@triton.jit
def place_pairs(index, found, counts, ends, order, place, pairs, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """Writes `order` and `place`: a pair follows its expert's pairs of the blocks before and of its own block."""
    block = tl.program_id(0)
    within = tl.arange(0, BLOCK)
    pair = block * BLOCK + within
    live = pair < pairs
    expert = tl.load(index + pair, mask=live, other=0).to(tl.int32)
    others = tl.load(index + block * BLOCK + within, mask=live, other=0).to(tl.int32)
    earlier = (expert[:, None] == others[None, :]) & (within[:, None] > within[None, :])
    start = tl.load(ends + expert, mask=live, other=0) - tl.load(counts + expert, mask=live, other=0)
    before = tl.load(found + block * EXPERTS + expert, mask=live, other=0)
    row = start + before + tl.sum(earlier.to(tl.int32), 1)
    tl.store(order + row, pair.to(tl.int64), mask=live)
    tl.store(place + pair, row.to(tl.int32), mask=live)


@triton.jit
def gather_rows(
    hidden,
    order,
    schedule,
    first_tile,
    gathered,
    tile_sums,
    width,
    top_k,
    experts,
    REPEATS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Copies hidden [tokens, width] bfloat16 into row order, gathered [pairs, width], and counts each tile on the way.

    tile_sums [tiles, 3, width] float32: sums of squares, sums and largest of the magnitudes. Grid (column blocks, tiles
    at most); REPEATS x ROWS rows are taken at once.
    """
    block, tile = tl.program_id(0), tl.program_id(1)
    if tile >= tl.load(first_tile + experts):
        return
    start = tl.load(schedule + tile * 4 + 1)
    end = start + tl.load(schedule + tile * 4 + 2)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    magnitudes = tl.zeros([ROWS, COLUMNS], tl.float32)
    peaks = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, end, REPEATS * ROWS):
        rows = first + tl.arange(0, REPEATS * ROWS)
        token = tl.load(order + rows, mask=rows < end, other=0) // top_k
        mask = (rows < end)[:, None] & inside[None, :]
        values = tl.load(hidden + token[:, None] * width + columns[None, :], mask=mask, other=0.0)
        tl.store(gathered + rows.to(tl.int64)[:, None] * width + columns[None, :], values, mask=mask)
        magnitude = tl.abs(values.to(tl.float32)).reshape(REPEATS, ROWS, COLUMNS)
        squares += tl.sum(magnitude * magnitude, 0)
        magnitudes += tl.sum(magnitude, 0)
        peaks = tl.maximum(peaks, tl.max(magnitude, 0))
    at = tile_sums + tile * 3 * width + columns
    tl.store(at, tl.sum(squares, 0), mask=inside)
    tl.store(at + width, tl.sum(magnitudes, 0), mask=inside)
    tl.store(at + 2 * width, tl.max(peaks, 0), mask=inside)


@triton.jit
def add_tiles(tile_sums, first_tile, site, width, experts, COLUMNS: tl.constexpr):
    """site [3, experts, width] float32: tile_sums added in tile order. Grid (column blocks, experts)."""
    expert = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    squares = tl.zeros([COLUMNS], tl.float32)
    magnitudes = tl.zeros([COLUMNS], tl.float32)
    peaks = tl.zeros([COLUMNS], tl.float32)
    for tile in range(tl.load(first_tile + expert), tl.load(first_tile + expert + 1)):
        at = tile_sums + tile * 3 * width + columns
        squares += tl.load(at, mask=inside, other=0.0)
        magnitudes += tl.load(at + width, mask=inside, other=0.0)
        peaks = tl.maximum(peaks, tl.load(at + 2 * width, mask=inside, other=0.0))
    at = site + expert * width + columns
    tl.store(at, squares, mask=inside)
    tl.store(at + experts * width, magnitudes, mask=inside)
    tl.store(at + 2 * experts * width, peaks, mask=inside)


@triton.jit
def combine_slots(
    routed,
    place,
    weights,
    output,
    norms,
    peaks,
    width,
    TOP_K: tl.constexpr,
    SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
):
    """output [tokens, width] bfloat16: each token's expert outputs times its gates, added in float32.

    routed [pairs, width] bfloat16 in row order; weights [pairs] in pair order. Also the L2 norm and the largest
    magnitude of each row: norms, peaks [pairs] float32. One program per token; SLOTS is TOP_K rounded up to a power of
    two; COLUMNS are taken at once, LANES x 8.
    """
    token = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, SLOTS)
    real = slots < TOP_K
    rows = tl.load(place + token * TOP_K + slots, mask=real, other=0).to(tl.int64)
    gates = tl.load(weights + token * TOP_K + slots, mask=real, other=0.0).to(tl.float32)
    squares = tl.zeros([SLOTS, LANES], tl.float32)
    largest = tl.zeros([SLOTS, LANES], tl.float32)
    for first in range(0, width, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        mask = real[:, None] & (columns < width)[None, :]
        values = tl.load(routed + rows[:, None] * width + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        total = tl.sum(values * gates[:, None], 0)
        tl.store(output + token * width + columns, total.to(tl.bfloat16), mask=columns < width)
        lanes = tl.abs(values).reshape(SLOTS, LANES, COLUMNS // LANES)
        squares += tl.sum(lanes * lanes, 2)
        largest = tl.maximum(largest, tl.max(lanes, 2))
    tl.store(norms + rows, tl.sqrt(tl.sum(squares, 1)), mask=real)
    tl.store(peaks + rows, tl.max(largest, 1), mask=real)


@triton.jit
def expert_totals(order, ends, counts, weights, norms, peaks, sums, maxima, experts, ROWS: tl.constexpr):
    """sums [4, experts] of gates, norms, squared norms, gate x norm; maxima [2, experts] of norm, magnitude; float32.

    norms, peaks [pairs] float32 in row order; weights [pairs] in pair order. One program per expert.
    """
    expert = tl.program_id(0)
    end = tl.load(ends + expert)
    gate_sum = tl.zeros([ROWS], tl.float32)
    norm_sum = tl.zeros([ROWS], tl.float32)
    norm_sq_sum = tl.zeros([ROWS], tl.float32)
    saliency_sum = tl.zeros([ROWS], tl.float32)
    norm_max = tl.zeros([ROWS], tl.float32)
    output_max = tl.zeros([ROWS], tl.float32)
    for first in range(end - tl.load(counts + expert), end, ROWS):
        rows = first + tl.arange(0, ROWS)
        live = rows < end
        gate = tl.load(weights + tl.load(order + rows, mask=live, other=0), mask=live, other=0.0).to(tl.float32)
        norm = tl.load(norms + rows, mask=live, other=0.0)
        gate_sum += gate
        norm_sum += norm
        norm_sq_sum += norm * norm
        saliency_sum += gate * norm
        norm_max = tl.maximum(norm_max, norm)
        output_max = tl.maximum(output_max, tl.load(peaks + rows, mask=live, other=0.0))
    tl.store(sums + expert, tl.sum(gate_sum))
    tl.store(sums + experts + expert, tl.sum(norm_sum))
    tl.store(sums + 2 * experts + expert, tl.sum(norm_sq_sum))
    tl.store(sums + 3 * experts + expert, tl.sum(saliency_sum))
    tl.store(maxima + expert, tl.max(norm_max))
    tl.store(maxima + experts + expert, tl.max(output_max))
