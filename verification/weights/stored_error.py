"""Whether a quantized weight is as near to its source as its blocks allow, measured on the blocks that are stored: some
artifacts hold a weight in several matrices, or other weights side by side than the disk does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch

from verification.reading.plain_rounding import Layout
from verification.reading.stated_rounding import Kind
from verification.reading.weights import CodedWeights
from verification.weights.format_error import LIMITS, Limit, Measure, WeightError, loosened, measures
from verification.weights.weighted_error import lost_group, unexplained

UNKNOWN = Limit(0.5, 1.0, 0)
"""Of types that are in no table: wrong matrices still show."""


@dataclass(frozen=True)
class Part:
    """One stored matrix. held_in: its name, where the weight is in several. weight, original: float32 [rows, columns],
    what is held and what should be, both as they are laid out in the artifact. importance: float32 [columns]; None
    where it is not known."""

    held_in: str
    encoding: str
    limit: Limit
    layout: Layout | None
    weight: torch.Tensor
    original: torch.Tensor
    importance: torch.Tensor | None

    @cached_property
    def measure(self) -> Measure:
        (found,) = measures(self.weight, self.original, self.limit, 1)
        return found

    def unsound(self, *, rescaled: bool) -> WeightError | None:
        """Its error, where that is beyond what rounding explains. rescaled: after scales in it were undone."""
        error = self.measure.error
        if not error.exceeds(replace(self.limit, block=2 * self.limit.block) if rescaled else self.limit):
            return None
        if self.importance is None or self.layout is None:
            return error
        return unexplained(self.weight, self.original, self.limit, self.layout, self.importance)

    @property
    def lost(self) -> tuple[int, int] | None:
        return lost_group(self.weight, self.original, self.limit)


def limit_of(encoding: str, kind: Kind) -> Limit:
    return loosened(LIMITS.get(encoding, UNKNOWN), kind)


def parts_of(
    weights: CodedWeights, name: str, weight: torch.Tensor, original: torch.Tensor, kind: Kind
) -> Sequence[Part]:
    """weight, original: float32 of the shape of the weight. kind: how it was rounded. A part that is stored as plain
    floats is held to what the others are."""
    held, should = weights.stored(name, weight), weights.stored(name, original)
    importance = weights.rounding(name).importance
    if importance is not None and len(held) == 1:
        importance = weights.stored(name, importance.unsqueeze(0))[0].values[0]
    return [
        Part(
            part.held_in,
            part.encoding or weights.encoding(name),
            limit_of(part.encoding or weights.encoding(name), kind),
            part.layout,
            part.values.reshape(-1, part.values.shape[-1]),
            wanted.values.reshape(-1, part.values.shape[-1]),
            importance,
        )
        for part, wanted in zip(held, should, strict=True)
    ]


def error_of(parts: Sequence[Part]) -> WeightError:
    """Of all of them together."""
    return reduce(lambda whole, part: whole.followed_by(part, 0), (part.measure for part in parts)).error
