"""Formats as kernels take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from exporters.rounding import int4, kquants, mxfp4, nvfp4
from exporters.rounding.cuda.nearest import Compiled
from exporters.rounding.format import Format
from exporters.rounding.fp8 import Fp8

_Steps = tuple[tuple[float, float, float], ...]

_SPANNED: _Steps = tuple((which, step, 0) for which in (0, 1) for step in (0, 1, -1))
_ALONE: _Steps = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0))
_ENDS: _Steps = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (1, 0, -1), (1, 0, 1))
_ONE: _Steps = ((0, 0, 0),)


@dataclass(frozen=True)
class Taken:
    """tried, near: what `candidate` and `neighbor` of exporters.rounding.cuda.candidates read, three numbers each."""

    compiled: Compiled
    tried: _Steps
    near: _Steps


def taken(form: Format) -> Taken | None:
    """None where no kernel knows the format."""
    group = form.group
    if group < 4 or group & (group - 1):
        return None
    if isinstance(form, nvfp4.Nvfp4):
        return Taken(_compiled(form, "e4m3"), _offsets(nvfp4.FIRST), _offsets(nvfp4.AROUND))
    if isinstance(form, mxfp4.Mxfp4):
        return Taken(_compiled(form, "powers"), _offsets(mxfp4.FIRST), _offsets(mxfp4.AROUND))
    if isinstance(form, Fp8):
        return Taken(_compiled(form, "rows"), _ONE, _ONE)
    if isinstance(form, int4.Integers) and isinstance(form.stored, int4.Stored):
        types, least = form.stored.dtypes, form.stored.least
        numbers = {"bf16": torch.bfloat16 in types, "f16": torch.float16 in types, "least": least}
        return Taken(_compiled(form, "ends", nudge=int4.NUDGE, **numbers), _pairs(int4.ENDS), _ENDS)
    if isinstance(form, kquants.Scaled):
        low, high = form.multiples
        numbers = {"multiples_low": float(low), "multiples_high": float(high), "nudge": kquants.NUDGE}
        tried = tuple((beyond, float(level), 0.0) for level in (form.low, form.high) for beyond in form.beyond)
        near = _SPANNED if form.span else _ALONE
        return Taken(_compiled(form, "scales", f16=True, **numbers), tried, near)
    if isinstance(form, kquants.ScaledWithMinimum):
        numbers = {"multiples_high": float(form.multiples), "nudge": kquants.NUDGE}
        spanned = ((1.0, 0.0, 0.0), *((0.0, float(scale), float(least)) for scale, least in kquants.STEPS))
        near = spanned if form.span else _ALONE
        return Taken(_compiled(form, "pairs", f16=True, **numbers), _pairs(kquants.ENDS), near)
    return None


def _compiled(form: Format, search: str, **more: Any) -> Compiled:
    levels = form.levels
    assert levels is not None
    low, high = float(levels.low), float(levels.high)
    span = 0 if form.span is None else form.span
    return Compiled(levels.kind, low, high, levels.bits, levels.smallest, search, form.group, span, **more)


def _offsets(offsets: Sequence[int]) -> _Steps:
    return tuple((float(offset), float(offset), 0.0) for offset in offsets)


def _pairs(ends: Sequence[tuple[float, float]]) -> _Steps:
    return tuple((low, high, 0.0) for low, high in ends)


@cache
def on_device(numbers: _Steps | tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=device)
