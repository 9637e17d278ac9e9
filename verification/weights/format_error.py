"""How far a dequantized weight may be from its source, by the format it is held in.

Two measures, both free of the weights' size. `relative` is |W' - W| / |W| over a tensor. `block` is the largest
|w' - w| of a block over the block's largest |w|; one damaged scale shows there and drowns in the first.
Limits are what the format's rounding does to Gaussian weights, with room: FP8 and NVFP4 round to a relative precision,
integer formats to steps of a block's range, so their limit grows with how far a block's extremes stand out.
"""

from dataclasses import dataclass, replace
from math import inf

import torch


@dataclass(frozen=True)
class Limit:
    """relative, block: the largest sound values. width: input channels of a block; 0 for whole rows.

    by_range: whether the error follows the block's range (integers) rather than each weight's size (floats).
    superblock: input channels over which the blocks' own scales are rounded together; 0 where each is free.
    """

    relative: float
    block: float
    width: int
    by_range: bool = False
    superblock: int = 0


EXACT = Limit(0.0, 0.0, 0)
LIMITS = {
    "fp8": Limit(0.04, 0.08, 0),
    "int8": Limit(0.02, 0.05, 0, True),
    "nvfp4": Limit(0.14, 0.3, 16),
    "mxfp4": Limit(0.2, 0.55, 32),
    "int4": Limit(0.17, 0.62, 128, True),
    "Q8_0": Limit(0.009, 0.02, 32, True),
    "Q8_1": Limit(0.009, 0.02, 32, True),
    "Q6_K": Limit(0.03, 0.12, 16, True, 256),
    "Q5_K": Limit(0.06, 0.2, 32, True, 256),
    "Q5_1": Limit(0.06, 0.2, 32, True),
    "Q5_0": Limit(0.07, 0.2, 32, True),
    "Q4_K": Limit(0.11, 0.35, 32, True, 256),
    "Q4_1": Limit(0.12, 0.35, 32, True),
    "Q4_0": Limit(0.14, 0.35, 32, True),
    "IQ4_NL": Limit(0.12, 0.35, 32, True),
    "IQ4_XS": Limit(0.12, 0.35, 32, True, 256),
    "Q3_K": Limit(0.22, 0.5, 16, True, 256),
    "IQ3_S": Limit(0.25, 0.7, 32, True, 256),
    "IQ3_XXS": Limit(0.32, 0.8, 32, True, 256),
    "Q2_K": Limit(0.45, 0.8, 16, True, 256),
    "IQ2_S": Limit(0.5, 0.9, 16, True, 256),
    "MXFP4": Limit(0.2, 0.55, 32),
}
"""By encoding, as verification.reading.weights names them; GGUF types by ggml's names."""

_SMALL_BLOCK = 1e-3
"""Blocks smaller than this part of the tensor's largest weight are measured against that: formats with scales of few
bits cannot do better there, and it does not matter."""

_SMALL_IN_SUPERBLOCK = 0.3
"""The same within a superblock."""

_GAUSSIAN_RANGE = {16: 2.0, 32: 2.3, 128: 2.85, 0: 3.4}
"""The largest of so many normal numbers, in standard deviations."""


@dataclass(frozen=True)
class WeightError:
    """See the module. row, column: where the worst block begins. range: a block's largest |w| over the tensor's root
    mean square, over all blocks in the root mean square."""

    relative: float
    block: float
    row: int
    column: int
    range: float

    def exceeds(self, limit: Limit) -> bool:
        stretch = max(1.0, self.range / _GAUSSIAN_RANGE[limit.width]) if limit.by_range else 1.0
        return not (self.relative <= limit.relative * stretch and self.block <= limit.block)


def measure(weight: torch.Tensor, source: torch.Tensor, limit: Limit) -> WeightError:
    """weight, source: float32 of one shape. limit: of the encoding, for its sizes of blocks along the last dimension;
    a row that they do not divide is one block."""
    if not source.numel():
        return WeightError(0.0, 0.0, 0, 0, 0.0)
    columns = source.shape[-1] if source.dim() else 1
    (found,) = measured(weight.reshape(-1, columns), source.reshape(-1, columns), limit, 1)
    return found


def measured(weight: torch.Tensor, source: torch.Tensor, limit: Limit, matrices: int) -> list[WeightError]:
    """Of each of several matrices of one size under one another. weight, source: float32 [matrices * rows, columns]."""
    return [found.error for found in measures(weight, source, limit, matrices)]


@dataclass(frozen=True)
class Measure:
    """Of a matrix, or of some of its rows. squares, wrong: sums over its weights and errors. block: the largest, and
    row, column: where it begins. extremes: sum of squares over blocks. blocks, count: of blocks and weights."""

    squares: float
    wrong: float
    block: float
    row: int
    column: int
    extremes: float
    blocks: int
    count: int

    def followed_by(self, other: "Measure", rows: int) -> "Measure":
        """With rows behind the first so many."""
        worst = other if other.block > self.block else self
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return Measure(**sums, block=worst.block, row=worst.row + (rows if worst is other else 0), column=worst.column)

    @property
    def error(self) -> WeightError:
        if self.squares == 0:
            relative = 0.0 if self.wrong == 0 else inf
            return WeightError(relative, relative, 0, 0, 0.0)
        relative = (self.wrong / self.squares) ** 0.5 if self.wrong == self.wrong else inf
        spread = (self.extremes / self.blocks) ** 0.5 / (self.squares / self.count) ** 0.5
        return WeightError(relative, self.block, self.row, self.column, spread)


_SUMS = ("squares", "wrong", "extremes", "blocks", "count")


def measures(
    weight: torch.Tensor, source: torch.Tensor, limit: Limit, matrices: int, largest: float | None = None
) -> list[Measure]:
    """Of each of several matrices under one another, or of some rows of one, of which `largest` is the largest weight.
    weight, source: float32 [matrices * rows, columns]."""
    error = weight - source
    ratios, extremes, size = _block_errors(error, source, limit, matrices, largest)
    norms, wrong = (x.view(matrices, -1).norm(dim=1) for x in (source, error))
    flat = ratios.view(matrices, -1)
    place = flat.argmax(1)
    spread = extremes.view(matrices, -1).norm(dim=1)
    worst = flat.gather(1, place.unsqueeze(1)).squeeze(1)
    numbers = torch.stack((norms, wrong, worst, spread), 1).tolist()
    per_row, count = ratios.shape[1], source.numel() // matrices

    def one(of: list[float], at: int) -> Measure:
        norm, wrong, block, extreme = of
        row, column = at // per_row, at % per_row * size
        return Measure(norm**2, wrong**2, block, row, column, extreme**2, flat.shape[1], count)

    return [one(of, at) for of, at in zip(numbers, place.tolist(), strict=True)]


def block_errors(weight: torch.Tensor, source: torch.Tensor, limit: Limit) -> tuple[torch.Tensor, int]:
    """(largest error of each block over its largest weight, float32 [rows, blocks]; width of a block). weight, source:
    float32 [rows, columns]."""
    ratios, _, size = _block_errors(weight - source, source, limit, 1, None)
    return ratios, size


def _block_errors(
    error: torch.Tensor, source: torch.Tensor, limit: Limit, matrices: int, largest: float | None
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(the same, the largest weight of each block, width of a block)."""
    rows, columns = source.shape
    size = limit.width if limit.width and columns % limit.width == 0 else columns
    blocks, extremes = (x.view(rows, columns // size, size).abs().amax(2) for x in (error, source))
    of_all = extremes.view(matrices, -1).amax(1) if largest is None else extremes.new_full((matrices,), largest)
    least = (_SMALL_BLOCK * of_all).clamp(min=1e-38)
    against = torch.maximum(extremes, least.repeat_interleave(rows // matrices).unsqueeze(1))
    if limit.superblock and columns % limit.superblock == 0:
        together = extremes.view(rows, columns // limit.superblock, -1).amax(2)
        floor = _SMALL_IN_SUPERBLOCK * together.repeat_interleave(limit.superblock // size, 1)
        against = torch.maximum(against, floor)
    return (blocks / against).nan_to_num(nan=inf), extremes, size


def loosened(limit: Limit, kind: str) -> Limit:
    """The limit of another way of rounding than to nearest; see verification.reading.stated_rounding.

    weighted: without the importance at hand, only what no choice of a scale makes of a block: a weight that is nearest
    under any scale worth choosing is off by no more than the block's largest. compensated: errors of a row make up for
    one another, and a weight may be moved by a few steps to do so; rounded-inputs: and by more where channels stand in
    for others, whose inputs an engine rounds away. clipped: a group's largest weight may be cut off.
    """
    if kind == "weighted":
        return replace(limit, relative=2 * limit.relative, block=max(limit.block, _ANY_SCALE))
    if kind == "clipped":
        return replace(limit, block=max(limit.block, _ANY_SCALE))
    if kind in _MOVED:
        of_tensor, of_block = _MOVED[kind]
        least = _MOVED_INTEGERS if limit.by_range else _ACROSS if limit.width else 0.0
        return replace(limit, relative=of_tensor * limit.relative, block=max(of_block * limit.block, least))
    return limit


_ANY_SCALE = 1.01
_MOVED = {"compensated": (2.0, 5.0), "rounded-inputs": (3.0, 20.0)}
"""How much farther than to the nearest level weights may be moved, a tensor's and a block's."""
_MOVED_INTEGERS = 1.5
"""Of a block's largest weight: how far integers under searched scales may be moved at least."""
_ACROSS = 6.0
"""The same of floats that share a block's scale: that is chosen for the block as errors of others have left it, which
in a block of small weights are several times as large."""
