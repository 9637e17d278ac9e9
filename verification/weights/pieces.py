"""One quantized matrix that is too large to be looked at whole, some rows at a time: of an embedding of a large
vocabulary, what is computed of each weight would take gigabytes."""

from dataclasses import dataclass

import torch

from sixfold.model.architecture import Linear
from verification.finding import Finding
from verification.reading.weights import CodedWeights
from verification.weights.code_check import Placement, out_of_place
from verification.weights.code_findings import CodeFindings
from verification.weights.format_error import Limit, WeightError, measures
from verification.weights.originals import Originals
from verification.weights.weighted_error import lose_groups

LARGE = 1 << 24
"""Weights from which on a processor compares a matrix in pieces of so many."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pieced:
    """values: float32, of all of it where they were asked for. sound: whether nothing is to be looked at again."""

    error: WeightError
    sound: bool
    findings: tuple[Finding, ...]
    values: torch.Tensor | None


def in_pieces(
    weights: CodedWeights,
    originals: Originals,
    codes: CodeFindings,
    name: str,
    limit: Limit,
    linear: Linear | None,
    *,
    whole: bool,
) -> Pieced:
    """linear: whose errors may have been made up for; None for other weights. whole: whether values are asked for.
    Raises as reading does."""
    rows, columns = weights.shape(name)
    pieces = [slice(start, min(start + LARGE // columns, rows)) for start in range(0, rows, LARGE // columns)]
    weighted, nearest = weights.rounding(name).kind == "weighted", codes.is_nearest(weights.encoding(name), linear)
    largest = max(float(originals.read(name, piece.start, piece.stop).abs().max()) for piece in pieces)
    values = torch.empty((rows, columns)) if whole else None
    total, sound, placed = None, True, Placement(None, 0, 0, 0)
    findings: list[Finding] = []
    for piece in pieces:
        stack, original = weights.stack([name], _CPU, piece), originals.read(name, piece.start, piece.stop)
        if values is not None:
            values[piece] = stack.values
        (found,) = measures(stack.values, original, limit, 1, largest)
        total = found if total is None else total.followed_by(found, piece.start)
        sound = sound and bool(stack.values.isfinite().all())
        if weighted:
            sound = sound and not lose_groups(stack.values, original, limit, 1)[0]
        if sound and stack.codes is not None and nearest:
            placed = placed.and_also(out_of_place(stack.codes, original, 1)[0], original.numel())
        elif sound and linear is not None:
            findings += codes.of_compensated([linear], stack.codes, stack.values, original, piece.start)
    assert total is not None
    error = total.error
    all_zeros = total.squares > 0 and error.relative == 1 and total.wrong == total.squares
    sound = sound and not error.exceeds(limit) and not all_zeros and not (placed.count and placed.are_few)
    if sound and nearest:
        codes.add(name, placed)
    return Pieced(error, sound, tuple(findings), values)
