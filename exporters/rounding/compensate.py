"""Round a weight so that its outputs change least: errors carried from column to column, scales found on the way.

Everything is in columns: a weight [R, C] is held as [C, R], so that one column of all rows is contiguous. Rows are
independent of one another; experts of one shape stand side by side in the batch dimension B.

First pass (GPTQ): from the first column to the last, each group of columns is rounded when its turn comes, with the
errors of all before it already carried into it. Its scale is the one of a few candidates that leaves the least error,
each tried with the errors carried on within the group; that error is exactly what the group adds to the outputs' error
while the columns behind it are still free.

Sweeps: with all columns rounded, one group after the other is rounded again for the target that is best while all
others stay: block coordinate descent. A group is changed only where that lowers the outputs' error, so no sweep makes
it larger.

Settling: last of all, one code after the other becomes the nearest to what is best while all others stay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch

from exporters.rounding.factor import Factor, group_factors
from exporters.rounding.format import Format
from exporters.rounding.products import add_product, product

BLOCK = 128
"""Columns whose errors are gathered before they are carried into all others in one product; among themselves they are
carried when a column's turn comes."""

SWEEPS = 2

_ROWS = 2048
"""Rounded together on the processor, of all weights that stand side by side: few enough that what is made of them stays
in a core's cache, and enough that a step takes longer than its call."""

_TILE = 128
"""Rows on a GPU that are rounded by one program."""

_TOGETHER = 16
"""Columns of a group into which the errors of all before them are carried in one product."""


@dataclass(frozen=True)
class Rounded:
    """values: float32 [B, R, C], what the codes mean. parameters: float32 [P, B, C / group, R], what they were rounded
    with (a format says which P there are). spans: float32 [S, B, C / span, R], what groups share."""

    values: torch.Tensor
    parameters: torch.Tensor
    spans: torch.Tensor | None


def compensate(weight: torch.Tensor, factor: Factor, form: Format, sweeps: int = SWEEPS) -> Rounded:
    """weight: float32 [B, R, C], on the factor's device; factors broadcast over B."""
    rows = _rows_on_gpu(weight) if weight.is_cuda else max(1, _ROWS // len(weight))
    own = group_factors(factor.moments, form.group)
    parts = [_compensate(part, factor, own, form, sweeps) for part in weight.split(rows, 1)]
    spans = [part.spans for part in parts if part.spans is not None]
    return Rounded(
        torch.cat([part.values for part in parts], 1),
        torch.cat([part.parameters for part in parts], -1),
        torch.cat(spans, -1) if spans else None,
    )


def _rows_on_gpu(weight: torch.Tensor) -> int:
    """All, unless they take more than a sixteenth of its memory: some five times as much is held beside them."""
    batch, rows, columns = weight.shape
    most = torch.cuda.get_device_properties(weight.device).total_memory // (16 * 4 * batch * columns)
    return rows if rows <= most else max(_TILE, most // _TILE * _TILE)


def _compensate(weight: torch.Tensor, factor: Factor, own: torch.Tensor, form: Format, sweeps: int) -> Rounded:
    """own: as from `group_factors`."""
    target = weight.mT.clone(memory_format=torch.contiguous_format)  # [B, C, R]
    kernels = _kernels(form) if target.is_cuda else None
    first_pass, sweep, settle = kernels or (_first_pass, _sweep, _settle)
    values, parameters, spans = first_pass(target, factor, form)
    if sweeps:
        gradient = product(factor.moments, torch.sub(values, target, out=target))
        del target
        for _ in range(sweeps):
            sweep(gradient, values, parameters, spans, factor.moments, own, form)
        settle(gradient, values, parameters, factor.moments, form)
    return Rounded(values.mT, parameters, spans)


def _first_pass(
    target: torch.Tensor, factor: Factor, form: Format
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    batch, channels, rows = target.shape
    upper, group = factor.upper, form.group
    left = target.clone()
    values = torch.empty_like(target)
    # Of each column's error, once it is rounded.
    importance = upper.diagonal(dim1=-2, dim2=-1).square().reciprocal().expand(batch, channels)
    found, shared = [], []
    span = form.span or channels
    block = max(BLOCK, form.span or 0)
    opened = form.open(left, importance) if form.span is None else None
    for start in range(0, channels, block):
        stop = min(start + block, channels)
        errors = left.new_empty(batch, stop - start, rows)
        for first in range(start, stop, group):
            last = first + group
            if form.span is not None and first % span == 0:
                opened = form.open(left[:, first : first + span], importance[:, first : first + span])
            if opened is not None and first % span == 0:
                shared.append(opened)
            part = left[:, first:last]
            if first > start:
                part = part - upper[:, start:first, first:last].mT @ errors[:, : first - start]
            candidates = form.candidates(part, importance[:, first:last], opened, (first % span) // group)
            own = upper[:, first:last, first:last]
            values[:, first:last], error, chosen = round_group(part, own, form, candidates)
            found.append(chosen)
            errors[:, first - start : last - start] = error
        if stop < channels:
            add_product(left[:, stop:], upper[:, start:stop, stop:].mT, errors, -1)
    return values, torch.stack(found, 2), torch.stack(shared, 2) if shared else None


def round_group(
    part: torch.Tensor, upper: torch.Tensor, form: Format, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """part: float32 [B, n, R]; upper: [B, n, n]; candidates: [P, B, K, R] -> values and errors [B, n, R] of the best
    candidate of each row, and its parameters [P, B, R]. An error is (value before - value) / upper's diagonal, with the
    errors of the columns before it carried in: its squares add up to the outputs' error."""
    batch, size, rows = part.shape
    number = candidates.shape[2]
    ready = form.ready(candidates)
    values = part.new_empty(batch, size, number, rows)
    errors = torch.empty_like(values)
    carried = errors.flatten(2)
    minus = -upper.mT.contiguous()
    inverse = upper.diagonal(dim1=-2, dim2=-1).reciprocal()[..., None, None]
    for start in range(0, size, _TOGETHER):
        stop = min(start + _TOGETHER, size)
        block = part[:, start:stop, None].expand(batch, stop - start, number, rows)
        if start:
            block = block + (minus[:, start:stop, :start] @ carried[:, :start]).view(block.shape)
        for j in range(start, stop):
            left = block[:, j - start]
            if j > start:
                left = left + (minus[:, j, None, start:j] @ carried[:, start:j]).view(left.shape)
            value = form.nearest(left, ready, out=values[:, j])
            torch.sub(left, value, out=errors[:, j]).mul_(inverse[:, j])
    if number == 1:
        return values[:, :, 0], errors[:, :, 0], candidates[:, :, 0]
    best = errors.square().sum(1).argmin(1)  # [B, R]
    pick = best[:, None, None].expand(batch, size, 1, rows)
    chosen = candidates.gather(2, best[None, :, None].expand(len(candidates), batch, 1, rows))
    return values.gather(2, pick)[:, :, 0], errors.gather(2, pick)[:, :, 0], chosen[:, :, 0]


def _sweep(
    gradient: torch.Tensor,
    values: torch.Tensor,
    parameters: torch.Tensor,
    spans: torch.Tensor | None,
    moments: torch.Tensor,
    own: torch.Tensor,
    form: Format,
) -> None:
    """Changes the gradient, values and parameters in place. own: as from `group_factors`."""
    channels = values.shape[1]
    group, span = form.group, form.span or channels
    block = max(BLOCK, group)
    for start in range(0, channels, block):
        stop = min(start + block, channels)
        moved = values.new_empty(len(values), stop - start, values.shape[2])
        for first in range(start, stop, group):
            last, index = first + group, first // group
            upper, held = own[:, index], values[:, first:last]
            slope = gradient[:, first:last]
            if first > start:
                slope = slope + moments[:, first:last, start:first] @ moved[:, : first - start]
            # H_gg^-1 g = U^T (U g): how far from the held values the best ones are while all others stay.
            reduced = upper @ slope
            best = held - upper.mT @ reduced
            before = parameters[:, :, index]
            shared = None if spans is None else spans[:, :, first // span]
            around = form.around(before, best, held, moments[:, first:last, first:last], shared)
            new, error, chosen = round_group(best, upper, form, around)
            better = error.square().sum(1) < reduced.square().sum(1)
            parameters[:, :, index] = torch.where(better, chosen, before)
            new = torch.where(better[:, None], new, held)
            torch.sub(new, held, out=moved[:, first - start : last - start])
            values[:, first:last] = new
        add_product(gradient, moments[:, :, start:stop], moved, 1)


def _settle(
    gradient: torch.Tensor, values: torch.Tensor, parameters: torch.Tensor, moments: torch.Tensor, form: Format
) -> None:
    """Changes values in place, a column at a time."""
    channels = values.shape[1]
    for start in range(0, channels, BLOCK):
        stop = min(start + BLOCK, channels)
        moved = _settle_block(gradient, values, parameters, moments, form, start, stop)
        if stop < channels:
            add_product(gradient[:, stop:], moments[:, stop:, start:stop], moved, 1)


def _settle_block(
    gradient: torch.Tensor,
    values: torch.Tensor,
    parameters: torch.Tensor,
    moments: torch.Tensor,
    form: Format,
    start: int,
    stop: int,
) -> torch.Tensor:
    """How far the columns from start to stop were moved."""
    group = form.group
    inverse = moments.diagonal(dim1=-2, dim2=-1).reciprocal()
    moved = values.new_empty(len(values), stop - start, values.shape[2])
    ready: tuple[torch.Tensor, ...] = ()
    for column in range(start, stop):
        if not ready or column % group == 0:
            ready = form.ready(parameters[:, :, column // group, None])
        slope, held = gradient[:, column, None], values[:, column, None]
        if column > start:
            slope = slope + moments[:, column, None, start:column] @ moved[:, : column - start]
        best = held - slope * inverse[:, column, None, None]
        new = form.nearest(best, ready, torch.empty_like(best))
        torch.sub(new, held, out=moved[:, column - start, None])
        values[:, column, None] = new
    return moved


def _kernels(form: Format) -> tuple[Callable[..., Any], ...] | None:
    """First pass, sweep and settling by kernels; None where there are none for the format."""
    fused = _fused()
    return (fused.first_pass, fused.sweep, fused.settle) if fused is not None and fused.takes(form) else None


@cache
def _fused() -> ModuleType | None:
    """The kernels; None where there is no Triton, which comes with the CUDA builds of PyTorch."""
    try:
        from exporters.rounding.cuda import launch
    except ImportError:
        return None
    return launch
