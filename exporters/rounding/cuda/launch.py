"""Compensated rounding on a GPU: what exporters.rounding.compensate does step by step, a block of columns at a time."""

import torch
import triton

from exporters.rounding.cuda import blocks, opening
from exporters.rounding.cuda.forms import on_device, taken
from exporters.rounding.factor import Factor
from exporters.rounding.format import Format
from exporters.rounding.fp8 import Fp8
from exporters.rounding.products import add_product

_BLOCK = 256
"""Columns of a launch, between which products carry."""
_SUB = 16
"""Columns that a program holds in registers."""
_ROWS, _WARPS = 128, 1
"""Of a program."""
_SCALES = 8
"""Of a row, that a program tries at once."""


def takes(form: Format) -> bool:
    """Whether there are kernels for it."""
    return taken(form) is not None


class Launch:
    """What all kernels need of a format and its weights, held in columns [B, C, R]."""

    def __init__(self, form: Format, like: torch.Tensor) -> None:
        kernels = taken(form)
        assert kernels is not None
        assert form.levels is not None
        self.batch, self.channels, self.rows = like.shape
        self.form = kernels.compiled
        self.tried, self.near = on_device(kernels.tried, like.device), on_device(kernels.near, like.device)
        table = form.levels.table
        self.table = self.tried if table is None else on_device(tuple(table.tolist()), like.device)
        whole = getattr(form, "global_scale", None)
        self.units = like.new_ones(self.batch) if whole is None else whole.float().expand(self.batch).contiguous()
        self.grid = (triton.cdiv(self.rows, _ROWS), self.batch)
        self.numbers = 2 if form.levels.kind in ("zero", "minimum") else 1
        self.constants = {"FORM": self.form, "SUB": min(_SUB, form.group), "BLOCK": _ROWS, "num_warps": _WARPS}

    def blocks(self) -> list[tuple[int, int]]:
        """The first column of each block and the one behind its last."""
        size = max(_BLOCK, self.form.span, self.form.group)
        return [(start, min(start + size, self.channels)) for start in range(0, self.channels, size)]


def first_pass(
    target: torch.Tensor, factor: Factor, form: Format
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """As exporters.rounding.compensate's."""
    of = Launch(form, target)
    batch, channels, rows = target.shape
    upper = factor.upper.contiguous()
    left, values = target.clone(), torch.empty_like(target)
    inverses = upper.diagonal(dim1=-2, dim2=-1).reciprocal().contiguous()
    importance = inverses.square().expand(batch, channels).contiguous()
    parameters = target.new_empty(of.numbers, batch, channels // form.group, rows)
    spans = None
    if form.span is not None:
        spans = target.new_empty(of.numbers, batch, channels // form.span, rows)
    elif isinstance(form, Fp8):
        spans = _row_scales(left, importance, form, of)[:, :, None]
    for start, stop in of.blocks():
        if form.span is not None:
            opening.open_span[of.grid](
                left, importance, spans, of.tried, of.table, rows, start, channels, batch,
                NUMBER=len(of.tried), **of.constants,
            )  # fmt: skip
        errors = left.new_empty(batch, stop - start, rows)
        blocks.first_pass[of.grid](
            left, upper, inverses, values, errors, parameters, left if spans is None else spans, of.units, of.tried,
            of.table, rows, start, stop - start, channels, _step(upper), batch,
            **_times(of.tried), SHARED=0 if spans is None else len(spans), **of.constants,
        )  # fmt: skip
        if stop < channels:
            add_product(left[:, stop:], upper[:, start:stop, stop:].mT, errors, -1)
    return values, parameters, spans


def _row_scales(left: torch.Tensor, importance: torch.Tensor, form: Fp8, of: Launch) -> torch.Tensor:
    """As `open` finds them: [1, B, R]."""
    scales = form.scales(torch.maximum(left.amax(1), -left.amin(1)))
    errors = torch.empty_like(scales)
    number = scales.shape[1]
    block = 64
    grid = (triton.cdiv(of.rows, block), of.batch, triton.cdiv(number, _SCALES))
    opening.row_errors[grid](
        left, importance, scales, errors, of.rows, of.channels,
        FORM=of.form, NUMBER=number, TOGETHER=_SCALES, BLOCK=block, num_warps=1,
    )  # fmt: skip
    return scales.gather(1, errors.argmin(1, keepdim=True)).transpose(0, 1)


def sweep(
    gradient: torch.Tensor,
    values: torch.Tensor,
    parameters: torch.Tensor,
    spans: torch.Tensor | None,
    moments: torch.Tensor,
    own: torch.Tensor,
    form: Format,
) -> None:
    """As exporters.rounding.compensate's."""
    of = Launch(form, values)
    batch, channels, rows = values.shape
    moments, own = moments.contiguous(), own.contiguous()
    turned = own.mT.contiguous()
    inverses = own.diagonal(dim1=-2, dim2=-1).reciprocal().contiguous()
    number = channels // form.group
    alike = moments.view(-1, number, form.group, number, form.group).diagonal(dim1=1, dim2=3)  # [B, n, n, groups]
    weights = alike.sum(1).mT.contiguous()
    scratch = values.new_empty(batch, 3 * form.group, rows)
    for start, stop in of.blocks():
        moved = values.new_empty(batch, stop - start, rows)
        blocks.sweep[of.grid](
            gradient, values, moments, own, turned, inverses, weights, parameters,
            values if spans is None else spans, of.units, of.near, of.table, moved, scratch,
            rows, start, stop - start, channels, _step(moments), batch,
            **_times(of.near), SHARED=0 if spans is None else len(spans), **of.constants,
        )  # fmt: skip
        add_product(gradient, moments[:, :, start:stop], moved, 1)


def settle(
    gradient: torch.Tensor, values: torch.Tensor, parameters: torch.Tensor, moments: torch.Tensor, form: Format
) -> None:
    """As exporters.rounding.compensate's."""
    of = Launch(form, values)
    batch, channels, rows = values.shape
    moments = moments.contiguous()
    inverses = moments.diagonal(dim1=-2, dim2=-1).reciprocal().contiguous()
    for start, stop in of.blocks():
        moved = values.new_empty(batch, stop - start, rows)
        blocks.settle[of.grid](
            gradient, values, moments, inverses, parameters, of.table, moved,
            rows, start, stop - start, channels, _step(moments), batch, **of.constants,
        )  # fmt: skip
        if stop < channels:
            add_product(gradient[:, stop:], moments[:, stop:, start:stop], moved, 1)


def _times(candidates: torch.Tensor) -> dict[str, int]:
    """A group is rounded with each, and with the best once more where there are several."""
    number = len(candidates)
    return {"NUMBER": number, "TIMES": number + 1 if number > 1 else 1}


def _step(matrices: torch.Tensor) -> int:
    """From one weight's to the next; 0 where all share one."""
    return 0 if len(matrices) == 1 else matrices.stride(0)
