"""A tensor that is not quantized against its source, some rows at a time."""

from dataclasses import dataclass
from math import prod

import torch

from sixfold.checkpoint.checkpoint import SourceTensor
from sixfold.model.architecture import Architecture
from verification.finding import Finding
from verification.reading.weights import CodedWeights
from verification.weights.format_error import EXACT, WeightError, measure
from verification.weights.moved_scales import ROUNDED
from verification.weights.originals import Originals
from verification.weights.weight_numbers import numbers_of

_ROWS_BYTES = 64 << 20
"""About how much is compared at a time."""

_SUBNORMAL = 2.0**-24
"""The smallest number of F16."""

_SHIFT = 1e-5
"""Of a bias's largest value: what float32 makes of one number added to all."""


@dataclass(frozen=True)
class Difference:
    """worst: of the rows that differ by more than a narrower type makes them. equal: whether there are none. bad: what
    is said of values that are no numbers, where the comparison ends."""

    worst: WeightError
    equal: bool
    bad: tuple[Finding, ...] = ()


def compared_plainly(
    weights: CodedWeights,
    originals: Originals,
    tensor: SourceTensor,
    device: torch.device,
    whole: torch.Tensor | None,
) -> Difference:
    """tensor: of the source. whole: what the artifact has, float32, where it was read already. Raises as reading
    does."""
    name, shape = tensor.name, tensor.shape
    rows = shape[0] if shape else 1
    step = max(1, _ROWS_BYTES * rows // max(1, 4 * prod(shape)))
    worst, equal = WeightError(0.0, 0.0, 0, 0, 0.0), True
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        original = originals.read(name, start, stop)
        weight = weights.read(name, start, stop) if whole is None else whole[start:stop] if shape else whole
        weight = weight.to(device).reshape(original.shape)
        if torch.equal(weight, original):
            continue
        bad = tuple(numbers_of(name, "", weight))
        if bad:
            return Difference(worst, False, bad)
        if bool(((weight - original).abs() <= weights.slack(name).around(original)).all()):
            continue
        narrower = weights.dtype(name) not in ("F32", tensor.dtype)
        equal = equal and narrower and _is_rounding(weight, original)
        found = measure(weight, original, EXACT)
        worst = found if found.relative >= worst.relative else worst
    return Difference(worst, equal)


def shifted_bias(weights: CodedWeights, originals: Originals, architecture: Architecture, name: str) -> Finding | None:
    """One number added to all of a correction bias chooses the same experts: tools take its mean out."""
    if name not in architecture.correction_biases:
        return None
    original = originals.on_cpu(name)
    shift = weights.read(name) - original
    spread = float((shift - shift.mean()).abs().max())
    if spread > _SHIFT * float(original.abs().max()):
        return None
    what = f"all of it is larger by {float(shift.mean()):.4g} than in the source: the same experts are chosen"
    return Finding("weights.shifted", name, what, "none", "nothing, if meant", "warning")


def _is_rounding(weight: torch.Tensor, original: torch.Tensor) -> bool:
    """Whether the values differ by no more than a narrower type makes them."""
    return bool(((weight - original).abs() <= ROUNDED * original.abs() + _SUBNORMAL).all())
