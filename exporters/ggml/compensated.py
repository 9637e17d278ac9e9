"""Rows of ggml's types with errors compensated, as the bytes of their blocks."""

from collections.abc import Sequence

import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from exporters.ggml.kernels import quantize
from exporters.ggml.packing import Blocks, pack
from exporters.rounding.compensate import compensate
from exporters.rounding.device import moved, sent_home, to_host
from exporters.rounding.factor import Factor
from exporters.rounding.kquants import FORMS, Scaled, ScaledWithMinimum
from sixfold.errors import SixfoldError

_EXACT = 0.25
"""Of the outputs' error with errors compensated: a row that errs less where it is rounded to nearest was in this type,
or one like it, before (weights of Q4_0, Q4_1 or INT4 files, dequantized), and compensation can only spoil it."""


def compensated(qtype: Type) -> bool:
    """Whether there is a compensated rounding to this type."""
    return qtype.name in FORMS


def quantize_compensated(
    weights: Sequence[torch.Tensor], qtype: Type, known: Factor, names: Sequence[str]
) -> list[torch.Tensor]:
    """weights: [R, C] each, C a multiple of the type's block -> uint8 [R * bytes of a row] each. Raises
    SixfoldError, with its name, where one is infinite or NaN."""
    form = FORMS[qtype.name]
    rows = torch.stack([moved(weight, known.upper.device) for weight in weights]).float()
    for name, sound in zip(names, torch.isfinite(rows).flatten(1).all(1).tolist(), strict=True):
        if not sound:
            raise SixfoldError(
                f"{name} has weights that are infinite or not a number", "download or prune the model again"
            )
    found = compensate(rows, known, form)
    size = form.span or form.group
    blocks = rows.numel() // size
    parameters = found.parameters.mT.reshape(len(found.parameters), blocks, -1)
    codes = _codes(form, found.values.reshape(blocks, -1, form.group), parameters).reshape(blocks, size)
    if found.spans is None:
        made = to_host(pack(qtype, _alone(form, codes, parameters[..., 0])).view(len(weights), -1))
        off = found.values - rows
        moments = known.moments.expand(len(rows), -1, -1)
        return [_with_exact(*each, qtype) for each in zip(made, rows, off, moments, strict=True)]
    shared = found.spans.mT.reshape(len(found.spans), blocks)  # d, and dmin
    packed = _spans(form, codes, parameters, shared, 0 if qtype == Type.Q6_K else 32)
    return list(sent_home(pack(qtype, packed).view(len(weights), -1)))


def _with_exact(
    made: torch.Tensor, weight: torch.Tensor, off: torch.Tensor, moments: torch.Tensor, qtype: Type
) -> torch.Tensor:
    """made: uint8 of the blocks of all rows, on the CPU. off: of what they mean, from weight [R, C]. Rows that rounding
    to nearest holds exactly are taken from it."""
    importance = None if qtype == Type.Q8_0 else moments.diagonal().contiguous()
    plain = to_host(quantize(weight, qtype, importance)).view(len(weight), -1)
    read = torch.from_numpy(dequantize(plain.numpy(), qtype)).to(weight.device)
    exact = _errors(read - weight, moments) < _EXACT * _errors(off, moments)
    return torch.where(exact.cpu()[:, None], plain, made.view(len(weight), -1)).flatten()


def _errors(off: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Of the outputs of every row: [R]."""
    return (off @ moments * off).sum(1)


def _alone(form: Scaled | ScaledWithMinimum, codes: torch.Tensor, parameters: torch.Tensor) -> Blocks:
    """Of groups with F16 numbers of their own: parameters [P, B]. A file states what is added, not what is taken."""
    if isinstance(form, ScaledWithMinimum):
        return Blocks(parameters[0].half(), codes, -parameters[1].half())
    return Blocks(parameters[0].half(), codes.to(torch.int16) + form.low if form.high == -form.low else codes)


def _spans(
    form: Scaled | ScaledWithMinimum, codes: torch.Tensor, parameters: torch.Tensor, shared: torch.Tensor, offset: int
) -> Blocks:
    """parameters: [P, B, G]. shared: [P, B]. offset: of the multiples of types without a minimum."""
    multiples = _quotient(parameters, shared[..., None]).to(torch.int32)
    d, dmin = shared[0].half(), shared[-1].half()
    if isinstance(form, ScaledWithMinimum):
        return Blocks(d, codes, dmin, multiples[0], multiples[-1])
    return Blocks(d, codes, scales=multiples[0] + offset)


def _codes(form: Scaled | ScaledWithMinimum, values: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """uint8, from the values that codes mean; values [N, groups, group], parameters [P, N, groups]."""
    scale = parameters[0][..., None]
    if isinstance(form, ScaledWithMinimum):
        return _quotient(values + parameters[1][..., None], scale).clamp_(0, form.high).to(torch.uint8)
    level = _quotient(values, scale)
    if form.codebook:
        book = torch.tensor(form.codebook, dtype=torch.float32, device=values.device)
        return torch.searchsorted(book, level).clamp_(max=len(book) - 1).to(torch.uint8)
    return level.clamp_(form.low, form.high).sub_(form.low).to(torch.uint8)


def _quotient(values: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Rounded; 0 where the unit is."""
    return (values / torch.where(unit == 0, torch.inf, unit)).round_()
