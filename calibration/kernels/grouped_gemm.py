"""The experts' products on Hopper: rows sorted by expert, each times its own expert's weight matrix.

One persistent kernel in Gluon, Triton's lower-level language. Per processor a producer warp brings tiles in by TMA; two
warpgroups multiply them, each for one half of a tile's output channels. The weights are the left operand, so that the
rows of an expert, few and uneven, lie along the dimension that tensor cores take in small steps: a tile is 128 weight
rows by up to 256 + 32 rows of one expert, and a few rows more than 256 cost little more than 256. Tile sizes are fixed;
each output is one float32 sum over the depth in one order, rounded once.
"""

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

LEAD = 128
"""Rows of room in front of a product's input: see `_rows_of`."""
_STAGES = 4
_STEP = gl.constexpr(64)
_WIDE, _NARROW, _LEAD = gl.constexpr(128), gl.constexpr(32), gl.constexpr(LEAD)


@gluon.jit
def _tile(schedule, number, blocks):
    entry = schedule + (number // blocks) * 4
    return gl.load(entry), gl.load(entry + 1), gl.load(entry + 2), gl.load(entry + 3)


@gluon.jit
def _load_rows(descriptor, buffer, bar, row, rows, k):
    """The first `rows` rows (at most the descriptor's) from `row` on; the rest of the buffer becomes zero."""
    HEIGHT: gl.constexpr = descriptor.block_type.shape[1]
    rows = gl.minimum(rows, HEIGHT)
    tma.async_copy_global_to_shared(descriptor, [row + _LEAD + rows - HEIGHT, HEIGHT - rows, k], bar, buffer)


@gluon.jit
def _produce_tile(descriptors, buffers, barriers, step, row, rows, weight_row, depth, SHAPE: gl.constexpr):
    weight, wide, narrow = descriptors
    weights, main, tail = buffers
    ready, empty = barriers
    STAGES: gl.constexpr = main.shape[0]
    UNITS: gl.constexpr = SHAPE // 2
    EXTRA: gl.constexpr = SHAPE % 2
    BYTES: gl.constexpr = (
        2 * weight.block_type.nbytes + UNITS * wide.block_type.nbytes + EXTRA * narrow.block_type.nbytes
    )
    HALF: gl.constexpr = weight.block_type.shape[0]
    for k in range(0, depth, _STEP):
        stage = step % STAGES
        mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
        bar = ready.index(stage)
        mbarrier.expect(bar, BYTES)
        for half in gl.static_range(2):
            if len(weight.block_type.shape) == 4:
                at = [weight_row + HALF * half, 0, 0, k]
            else:
                at = [weight_row + HALF * half, k]
            tma.async_copy_global_to_shared(weight, at, bar, weights.index(stage * 2 + half))
        for unit in gl.static_range(UNITS):
            into = main.index(stage).slice(unit, 1)
            _load_rows(wide, into, bar, row + unit * _WIDE, rows - unit * _WIDE, k)
        if EXTRA:
            _load_rows(narrow, tail.index(stage), bar, row + UNITS * _WIDE, rows - UNITS * _WIDE, k)
        step += 1
    return step


@gluon.jit
def _producer(descriptors, buffers, barriers, schedule, total, depth, blocks, per_expert, per_block):
    step = 0
    for number in range(gl.program_id(0), gl.load(total) * blocks, gl.num_programs(0)):
        expert, row, rows, shape = _tile(schedule, number, blocks)
        weight_row = expert * per_expert + (number % blocks) * per_block
        for SHAPE in gl.static_range(1, 6):
            if shape == SHAPE:
                step = _produce_tile(descriptors, buffers, barriers, step, row, rows, weight_row, depth, SHAPE)


@gluon.jit
def _swiglu(sums):
    """sums [64, tokens] float32, rows in turns eight of the gate and eight of the up projection -> [32, tokens]."""
    TOKENS: gl.constexpr = sums.shape[1]
    gate, up = sums.reshape([4, 2, 8, TOKENS]).permute([0, 2, 3, 1]).split()
    return (gate / (1.0 + gl.exp(-gate)) * up).reshape([32, TOKENS])


@gluon.jit
def _count(values, squares, magnitudes, peaks):
    """Adds values [channels, tokens] to the three sums [channels]; tokens that are not there are zero."""
    found = gl.abs(values.to(gl.float32))
    squares += gl.convert_layout(gl.sum(found * found, 1), squares.type.layout)
    magnitudes += gl.convert_layout(gl.sum(found, 1), squares.type.layout)
    peaks = gl.maximum(peaks, gl.convert_layout(gl.max(found, 1), squares.type.layout))
    return squares, magnitudes, peaks


@gluon.jit
def _store(values, out, row, rows, channel, width):
    """The first `rows` tokens of values [channels, tokens] -> out [pairs, width], from `row` and `channel` on."""
    CHANNELS: gl.constexpr = values.shape[0]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // CHANNELS, CHANNELS // 8], [4, 1], [1, 0])
    values = gl.convert_layout(values.permute([1, 0]), layout)
    token = gl.arange(0, values.shape[0], layout=gl.SliceLayout(1, layout))
    channels = channel + gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, layout))
    at = (row + token).to(gl.int64)[:, None] * width + channels[None, :]
    gl.store(out + at, values, mask=(token < rows)[:, None] & (channels < width)[None, :])


@gluon.jit
def _consume_tile(
    buffers,
    barriers,
    out,
    tile_sums,
    step,
    tile,
    row,
    rows,
    channel,
    depth,
    width,
    HALF: gl.constexpr,
    SHAPE: gl.constexpr,
):
    weights, main, tail = buffers
    ready, empty = barriers
    STAGES: gl.constexpr = main.shape[0]
    UNITS: gl.constexpr = SHAPE // 2
    EXTRA: gl.constexpr = SHAPE % 2
    GATED: gl.constexpr = len(weights.shape) == 5
    TOKENS: gl.constexpr = UNITS * _WIDE if UNITS > 0 else _WIDE
    a = gl.zeros([64, TOKENS], gl.float32, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TOKENS, 16]))
    b = gl.zeros([64, _NARROW], gl.float32, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, _NARROW, 16]))
    for k in range(0, depth, _STEP):
        stage = step % STAGES
        mbarrier.wait(ready.index(stage), (step // STAGES) & 1)
        weight = weights.index(stage * 2 + HALF)
        if GATED:
            weight = weight.reshape([64, _STEP])
        if UNITS > 0:
            rows_here = main.index(stage).reshape([2 * _WIDE, _STEP]).slice(0, TOKENS)
            a = warpgroup_mma(weight, rows_here.permute([1, 0]), a, is_async=True)
        if EXTRA:
            rows_here = tail.index(stage).reshape([_NARROW, _STEP])
            b = warpgroup_mma(weight, rows_here.permute([1, 0]), b, is_async=True)
        # What may still run is this step's; the buffers of the step before are free.
        a, b = warpgroup_mma_wait((UNITS > 0) + EXTRA, deps=(a, b))
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=k > 0)
        step += 1
    a, b = warpgroup_mma_wait(0, deps=(a, b))
    mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1)
    if GATED:
        vector: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
        squares = gl.zeros([32], gl.float32, vector)
        magnitudes = gl.zeros([32], gl.float32, vector)
        peaks = gl.zeros([32], gl.float32, vector)
    for part in gl.static_range(2):
        offset = part * UNITS * _WIDE
        if (EXTRA if part else UNITS) > 0:
            values = a if part == 0 else b
            if GATED:
                values = _swiglu(values).to(gl.bfloat16)
                squares, magnitudes, peaks = _count(values, squares, magnitudes, peaks)
            else:
                values = values.to(gl.bfloat16)
            _store(values, out, row + offset, rows - offset, channel, width)
    if GATED:
        channels = channel + gl.arange(0, 32, layout=vector)
        at = tile_sums + tile * 3 * width + channels
        gl.store(at, squares, mask=channels < width)
        gl.store(at + width, magnitudes, mask=channels < width)
        gl.store(at + 2 * width, peaks, mask=channels < width)
    return step


@gluon.jit
def _consumer(buffers, barriers, out, tile_sums, schedule, total, depth, width, blocks, channels, HALF: gl.constexpr):
    step = 0
    for number in range(gl.program_id(0), gl.load(total) * blocks, gl.num_programs(0)):
        _, row, rows, shape = _tile(schedule, number, blocks)
        channel = (number % blocks) * channels + HALF * (channels // 2)
        for SHAPE in gl.static_range(1, 6):
            if shape == SHAPE:
                step = _consume_tile(
                    buffers,
                    barriers,
                    out,
                    tile_sums,
                    step,
                    number // blocks,
                    row,
                    rows,
                    channel,
                    depth,
                    width,
                    HALF,
                    SHAPE,
                )


@gluon.jit
def _grouped(
    weight,
    wide,
    narrow,
    out,
    tile_sums,
    schedule,
    total,
    depth,
    width,
    blocks,
    per_expert,
    per_block,
    channels,
    STAGES: gl.constexpr,
):
    """Tile `n` of the schedule and block `b` of the output channels is number n x blocks + b; programs take turns."""
    buffers = (
        gl.allocate_shared_memory(gl.bfloat16, [2 * STAGES] + weight.block_type.shape, weight.layout),  # noqa: RUF005
        gl.allocate_shared_memory(gl.bfloat16, [STAGES, 2, _WIDE, _STEP], wide.layout),
        gl.allocate_shared_memory(gl.bfloat16, [STAGES] + narrow.block_type.shape, narrow.layout),  # noqa: RUF005
    )
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    barriers = (ready, empty)
    descriptors = (weight, wide, narrow)
    gl.warp_specialize(
        [
            (_consumer, (buffers, barriers, out, tile_sums, schedule, total, depth, width, blocks, channels, 0)),
            (_consumer, (buffers, barriers, out, tile_sums, schedule, total, depth, width, blocks, channels, 1)),
            (_producer, (descriptors, buffers, barriers, schedule, total, depth, blocks, per_expert, per_block)),
        ],
        [4, 1],
        [240, 24],
    )


def grouped_swiglu(
    rows: torch.Tensor,
    gate_up: torch.Tensor,
    schedule: torch.Tensor,
    total: torch.Tensor,
    out: torch.Tensor,
    tile_sums: torch.Tensor,
) -> None:
    """out [pairs, intermediate] = silu(gate) * up with gate and up = rows [pairs, hidden] times their expert's gate_up.

    gate_up [experts, 2 x intermediate, hidden], the gate's rows first; schedule and total as
    calibration.kernels.triton_kernels.schedule_tiles writes them. All BF16 and contiguous, widths multiples of 16.
    """
    experts, double, hidden = gate_up.shape
    half = double // 2
    # Eight rows of the gate, the same eight of the up projection, and so on: in the accumulator of a tensor core both
    # values of a channel then belong to the same thread.
    shape, strides = [(2 * experts - 1) * half // 8, 2, 8, hidden], [8 * hidden, half * hidden, hidden, 1]
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    weight = TensorDescriptor(gate_up, shape, strides, [4, 2, 8, _STEP.value], layout)
    _launch(weight, rows, schedule, total, out, tile_sums, per_expert=double // 8, per_block=8, channels=64)


def grouped_product(
    rows: torch.Tensor, weight: torch.Tensor, schedule: torch.Tensor, total: torch.Tensor, out: torch.Tensor
) -> None:
    """out [pairs, width] = rows [pairs, depth] times the transpose of their expert's weight [experts, width, depth]."""
    experts, width, depth = weight.shape
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    descriptor = TensorDescriptor(weight, [experts * width, depth], [depth, 1], [64, _STEP.value], layout)
    _launch(descriptor, rows, schedule, total, out, None, per_expert=width, per_block=128, channels=128)


def _rows_of(matrix: torch.Tensor, height: int) -> TensorDescriptor:
    """matrix [LEAD + pairs, depth], read in blocks of `height` rows of which only the first few may be wanted.

    TMA gives zeros for what is out of bounds, so the rows have two dimensions of the same stride: row r is (a, b) for
    any a + b = r, and b is out of bounds from `height` on. A block that starts at b = height - n has n rows. Its a may
    be as low as n - height, hence the room in front. Rows of other experts are neither read nor multiplied.
    """
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=3)
    (rows, depth) = matrix.shape
    return TensorDescriptor(matrix, [rows, height, depth], [depth, depth, 1], [1, height, _STEP.value], layout)


def _launch(
    weight: TensorDescriptor,
    rows: torch.Tensor,
    schedule: torch.Tensor,
    total: torch.Tensor,
    out: torch.Tensor,
    tile_sums: torch.Tensor | None,
    per_expert: int,
    per_block: int,
    channels: int,
) -> None:
    width = out.shape[1]
    processors = torch.cuda.get_device_properties(rows.device).multi_processor_count
    _grouped[(processors,)](
        weight,
        _rows_of(rows, _WIDE.value),
        _rows_of(rows, _NARROW.value),
        out,
        tile_sums,
        schedule,
        total,
        rows.shape[1],
        width,
        -(-width // channels),
        per_expert,
        per_block,
        channels,
        STAGES=_STAGES,
        num_warps=4,
        maxnreg=168,
    )
