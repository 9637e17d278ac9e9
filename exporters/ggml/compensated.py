"""Rows of K-quants and IQ4_XS with errors compensated, as the bytes of their blocks."""

from collections.abc import Sequence

import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.packing import Blocks, pack
from exporters.rounding.compensate import compensate
from exporters.rounding.device import moved, to_host
from exporters.rounding.factor import Factor
from exporters.rounding.kquants import FORMS, SPAN, Scaled, ScaledWithMinimum
from sixfold.errors import SixfoldError


def compensated(qtype: Type) -> bool:
    """Whether there is a compensated rounding to this type."""
    return qtype.name in FORMS


def quantize_compensated(
    weights: Sequence[torch.Tensor], qtype: Type, known: Factor, names: Sequence[str]
) -> list[torch.Tensor]:
    """weights: [R, C] each, C a multiple of 256 -> uint8 [R * bytes of a row] each. Raises SixfoldError, with its name,
    where one is infinite or NaN."""
    form = FORMS[qtype.name]
    rows = torch.stack([moved(weight, known.upper.device) for weight in weights]).float()
    for name, sound in zip(names, torch.isfinite(rows).flatten(1).all(1).tolist(), strict=True):
        if not sound:
            raise SixfoldError(
                f"{name} has weights that are infinite or not a number", "download or prune the model again"
            )
    found = compensate(rows, known, form)
    assert found.spans is not None  # every one of these types has a d
    blocks = rows.numel() // SPAN
    shared = found.spans.mT.reshape(len(found.spans), blocks)  # d, and dmin
    parameters = found.parameters.mT.reshape(len(found.parameters), blocks, -1)
    multiples = _quotient(parameters, shared[..., None])
    values = found.values.reshape(blocks, -1, form.group)
    codes = _codes(form, values, parameters).reshape(blocks, SPAN)
    d, dmin = shared[0], shared[-1]
    scales = multiples[0].to(torch.int32)
    if isinstance(form, ScaledWithMinimum):
        packed = Blocks(d.half(), codes, dmin.half(), scales, multiples[-1].to(torch.int32))
    else:
        packed = Blocks(d.half(), codes, scales=scales if qtype == Type.Q6_K else scales + 32)
    return list(to_host(pack(qtype, packed).view(len(weights), -1)))


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
