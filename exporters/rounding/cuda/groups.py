"""Rounding a group of columns, and settling a block of them, in one launch: what exporters.rounding.compensate does in
tens of them for every column. A program holds its rows' columns in registers from the first to the last.
"""

import torch
import triton
import triton.language as tl

from exporters.rounding.format import Format, Levels

_FLOATS = tl.constexpr(0)
_STEPS = tl.constexpr(1)
_ZERO = tl.constexpr(2)
_MINIMUM = tl.constexpr(3)
_TABLE = tl.constexpr(4)
_KINDS = {"floats": _FLOATS, "steps": _STEPS, "zero": _ZERO, "minimum": _MINIMUM, "table": _TABLE}

_WIDEST = 128
"""Columns that a program can hold."""
_TILE = 2048
"""Numbers of a group that a warp holds."""
_SIZES = ("rows", "number", "part_batch", "part_column", "upper_batch")


def holds(columns: int) -> bool:
    """Whether there is a kernel for so many columns at once."""
    return columns <= _WIDEST and columns & (columns - 1) == 0


@triton.jit
def _nearest(
    x, inverse, scale, third, table, KIND: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, BITS: tl.constexpr,
    SMALLEST: tl.constexpr,
):  # fmt: skip
    """As the formats' `nearest`: `third` is a zero point or a minimum; `table` holds numbers by halves of a level."""
    if KIND == _MINIMUM:
        level = (x + third) * inverse
    elif KIND == _ZERO:
        level = x * inverse + third
    else:
        level = x * inverse
    if KIND == _TABLE:
        place = tl.minimum(tl.maximum(tl.floor(level * 2.0), LOW), HIGH) - LOW
        level = tl.load(table + place.to(tl.int32))
    else:
        level = tl.minimum(tl.maximum(level, LOW), HIGH)
        whole = tl.full(level.shape, 12582912.0, tl.float32)  # 1.5 * 2^23, whose last bit counts ones
        if KIND == _FLOATS:
            power = (level.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
            whole = whole * (tl.maximum(power, SMALLEST) / (1 << BITS))
        level = (level + whole) - whole
    if KIND == _ZERO:
        level = level - third
    level = level * scale
    if KIND == _MINIMUM:
        level = level - third
    return level


@triton.jit(do_not_specialize=_SIZES)
def _round_group(
    part, upper, inverses, scales, thirds, table, values, errors, chosen,
    rows, number, part_batch, part_column, upper_batch,
    N: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    BITS: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    column = tl.arange(0, N)
    places = batch * part_batch + column[:, None] * part_column + row[None, :]
    first = tl.load(part + places, mask=inside[None, :], other=0.0)
    upper += batch * upper_batch
    least = tl.full([BLOCK], float("inf"), tl.float32)
    best = tl.zeros([BLOCK], tl.int64)
    for k in range(number):
        at = (batch * number + k) * rows + row
        inverse = tl.load(inverses + at, mask=inside, other=0.0)
        scale = tl.load(scales + at, mask=inside, other=0.0)
        third = tl.load(thirds + at, mask=inside, other=0.0)
        left = first
        total = tl.zeros([BLOCK], tl.float32)
        for j in range(N):
            x = tl.sum(tl.where(column[:, None] == j, left, 0.0), 0)
            value = _nearest(x, inverse, scale, third, table, KIND, LOW, HIGH, BITS, SMALLEST)
            error = (x - value) / tl.load(upper + j * N + j)
            total += error * error
            carried = tl.where(column > j, tl.load(upper + j * N + column), 0.0)
            left -= carried[:, None] * error[None, :]
        better = total < least
        least = tl.where(better, total, least)
        best = tl.where(better, k, best)
    at = (batch * number + best) * rows + row
    inverse = tl.load(inverses + at, mask=inside, other=0.0)
    scale = tl.load(scales + at, mask=inside, other=0.0)
    third = tl.load(thirds + at, mask=inside, other=0.0)
    left = first
    for j in range(N):
        x = tl.sum(tl.where(column[:, None] == j, left, 0.0), 0)
        value = _nearest(x, inverse, scale, third, table, KIND, LOW, HIGH, BITS, SMALLEST)
        error = (x - value) / tl.load(upper + j * N + j)
        carried = tl.where(column > j, tl.load(upper + j * N + column), 0.0)
        left -= carried[:, None] * error[None, :]
        tl.store(values + (batch * N + j) * rows + row, value, mask=inside)
        tl.store(errors + (batch * N + j) * rows + row, error, mask=inside)
    tl.store(chosen + batch * rows + row, best, mask=inside)


@triton.jit(do_not_specialize=("rows", "groups", "values_batch", "moments_batch"))
def _settle(
    slopes, moments, values, inverses, scales, thirds, table, moved,
    rows, groups, values_batch, moments_batch,
    GROUP: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr, LOW: tl.constexpr,
    HIGH: tl.constexpr, BITS: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    column = tl.arange(0, N)
    values += batch * values_batch
    moments += batch * moments_batch
    left = tl.load(
        slopes + batch * values_batch + column[:, None] * rows + row[None, :], mask=inside[None, :], other=0.0
    )
    for j in range(N):
        slope = tl.sum(tl.where(column[:, None] == j, left, 0.0), 0)
        held = tl.load(values + j * rows + row, mask=inside, other=0.0)
        at = (batch * groups + j // GROUP) * rows + row
        inverse = tl.load(inverses + at, mask=inside, other=0.0)
        scale = tl.load(scales + at, mask=inside, other=0.0)
        third = tl.load(thirds + at, mask=inside, other=0.0)
        best = held - slope / tl.load(moments + j * N + j)
        new = _nearest(best, inverse, scale, third, table, KIND, LOW, HIGH, BITS, SMALLEST)
        carried = tl.where(column > j, tl.load(moments + j * N + column), 0.0)
        left += carried[:, None] * (new - held)[None, :]
        tl.store(values + j * rows + row, new, mask=inside)
        tl.store(moved + (batch * N + j) * rows + row, new - held, mask=inside)


def round_group(
    part: torch.Tensor, upper: torch.Tensor, form: Format, levels: Levels, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As exporters.rounding.compensate.round_group. part: its last dimension contiguous."""
    batch, size, rows = part.shape
    number = candidates.shape[2]
    inverse, scale, third = _parameters(form, candidates)
    values = part.new_empty(batch, size, rows)
    errors = torch.empty_like(values)
    chosen = torch.empty(batch, rows, dtype=torch.int64, device=part.device)
    upper = upper.contiguous()
    block = max(16, min(128, _TILE // size))
    _round_group[(triton.cdiv(rows, block), batch)](
        part, upper, inverse, scale, third, _table(levels, scale), values, errors, chosen,
        rows, number, part.stride(0), part.stride(1), 0 if len(upper) == 1 else size * size,
        N=size, BLOCK=block, num_warps=max(1, size * block // _TILE), **_constants(levels),
    )  # fmt: skip
    if number == 1:
        return values, errors, candidates[:, :, 0]
    pick = chosen[None, :, None].expand(len(candidates), batch, 1, rows)
    return values, errors, candidates.gather(2, pick)[:, :, 0]


def settle(
    slopes: torch.Tensor,
    values: torch.Tensor,
    moments: torch.Tensor,
    form: Format,
    levels: Levels,
    parameters: torch.Tensor,
) -> torch.Tensor:
    """One code after the other of a block of columns; values, [B, N, R] of a contiguous tensor, change in place.

    slopes: their gradient, of the same strides. moments: [B, N, N]. parameters: [P, B, N / group, R]. Returns how far
    values were moved, [B, N, R].
    """
    batch, size, rows = values.shape
    inverse, scale, third = _parameters(form, parameters)
    moved = values.new_empty(batch, size, rows)
    moments = moments.contiguous()
    block = max(16, min(128, _TILE // size))
    _settle[(triton.cdiv(rows, block), batch)](
        slopes, moments, values, inverse, scale, third, _table(levels, scale), moved,
        rows, parameters.shape[2], values.stride(0), 0 if len(moments) == 1 else size * size,
        GROUP=form.group, N=size, BLOCK=block, num_warps=max(1, size * block // _TILE), **_constants(levels),
    )  # fmt: skip
    return moved


def _parameters(form: Format, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `ready` gives, and the scale once more where it gives but two."""
    inverse, scale, *third = (part.contiguous() for part in form.ready(parameters))
    return inverse, scale, third[0] if third else scale


def _table(levels: Levels, scale: torch.Tensor) -> torch.Tensor:
    return scale if levels.table is None else levels.table.to(scale.device)


def _constants(levels: Levels) -> dict[str, object]:
    return {
        "KIND": _KINDS[levels.kind].value,
        "LOW": float(levels.low),
        "HIGH": float(levels.high),
        "BITS": levels.bits,
        "SMALLEST": levels.smallest,
    }
