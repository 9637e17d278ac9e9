"""What rounding a part of a model to a type costs, foretold from second moments without running the model.

With M the second moments of what a weight W reads and D what rounding changes in it, the outputs err by tr(D M D^T)
of tr(W M W^T). Where errors will be compensated, column after column, what is left of the error of column j is what the
columns behind it cannot make up for: 1 / U_jj^2 in place of M_jj, with U^T U = M^-1 (exporters/rounding/factor.py).
That needs no compensated rounding either. Rows do not depend on one another, so a sample of them says it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from exporters.rounding.factor import factor
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source
from sixfold.statistics.damages import Damage, Part
from sixfold.statistics.input_moments import InputMoments
from sixfold.statistics.starved_experts import filled
from sixfold.statistics.statistics import Statistics

MATRICES = 16
"""Experts of a stack that are looked at, evenly spaced."""
ROWS = 256
"""Rows of a part that are looked at, in runs of _RUN evenly spaced."""
_RUN = 8


class Rounding(Protocol):
    """To one type. compensated: whether there is a rounding to it that compensates errors."""

    @property
    def compensated(self) -> bool: ...

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        """rows: float32 [R, C] -> what they become, float32. importance: mean squares of the input, [C]."""
        ...


@dataclass(frozen=True)
class Input:
    """moments: float32 [C, C]. remaining: float32 [C], what stays of each column's squared error once it is
    compensated. importance: mean squares, [C]; None where nothing is known."""

    moments: torch.Tensor
    remaining: torch.Tensor
    importance: torch.Tensor | None


class Known:
    """What is known of every input, by the on-disk name of a Linear that reads it."""

    def __init__(self, statistics: Statistics, device: torch.device) -> None:
        self._statistics = statistics
        self._moments = InputMoments(statistics, device)
        self._remaining = lru_cache(512)(self._find_remaining)  # of parts that read the same experts' inputs

    def input(self, linear: str, columns: int) -> Input:
        if not self._statistics.has(linear):
            return Input(torch.eye(columns), torch.ones(columns), None)
        site, expert = self._statistics.place_of(linear)
        found = self._moments.of_place(site, expert) if self._statistics.has_moments else None
        if found is not None:
            mean = found.mean.cpu()
            return Input(mean, self._remaining(site, expert), _importance(mean.diagonal()))
        squares = filled(self._statistics, site, ("sum_sq", "count"))
        mean = squares["sum_sq"] / squares["count"].clamp(min=1)[..., None]
        importance = _importance(mean if expert is None else mean[expert])
        diagonal = importance if importance is not None else torch.ones(columns)
        return Input(torch.diag(diagonal), diagonal, importance)

    def _find_remaining(self, site: str, expert: int | None) -> torch.Tensor:
        """float32 [C]; of an input with moments."""
        found = self._moments.of_place(site, expert)
        assert found is not None  # by the caller
        made = factor(found.mean[None], found.damping)
        unit = found.mean.diagonal().mean().clamp(min=1e-30)  # `factor` makes that 1
        return (made.upper[0].diagonal().square().reciprocal() * unit).cpu()


def part_of(
    source: Source,
    known: Known,
    weights: Sequence[str],
    shares: Sequence[float],
    roundings: Mapping[str, Rounding],
) -> Part:
    """Of the weights (on-disk tensor names, all of one shape: a matrix, or the experts of a layer) together.

    shares: of each in what their layer does, in any unit; errors are parts of each weight's own outputs, and these
    shares their weights. Where nothing is known of an input, its channels are taken as unrelated and of one size.
    """
    step = -(-len(weights) // MATRICES)
    total = alignment = 0.0
    nearest, compensated = dict.fromkeys(roundings, 0.0), dict.fromkeys(roundings, 0.0)
    looked_at = list(zip(weights[::step], shares[::step], strict=True))
    for name, share in looked_at:
        rows = _sample(source, name, -(-ROWS // len(looked_at)))
        found = known.input(name.removesuffix(".weight"), rows.shape[1])
        own = max(float((rows @ found.moments * rows).sum()), 1e-30)
        even = float(found.moments.diagonal().mean() * rows.square().sum())
        total += share
        alignment += share * (own / even if even else 1.0)
        for kind, rounding in roundings.items():
            error = rounding(rows, found.importance) - rows
            plain = float((error @ found.moments * error).sum()) / own
            left = float((error.square() * found.remaining).sum()) / own
            nearest[kind] += share * plain
            compensated[kind] += share * (min(plain, left) if rounding.compensated else plain)
    whole = max(total, 1e-30)
    damages = {kind: Damage(nearest[kind] / whole, compensated[kind] / whole) for kind in roundings}
    return Part(alignment / whole, None, damages)


def _sample(source: Source, name: str, rows: int) -> torch.Tensor:
    """float32 [about `rows`, C]; all of them where there are few."""
    total = source.checkpoint.tensors[name].shape[0]
    return torch.cat([source.checkpoint.read(part).float().flatten(1) for part in _runs(name, total, rows)])


def _runs(name: str, total: int, rows: int) -> Iterator[TensorSlice]:
    number = -(-rows // _RUN)
    if number * _RUN >= total:
        yield TensorSlice(name, 0, total)
        return
    for index in range(number):
        start = index * (total - _RUN) // max(1, number - 1)
        yield TensorSlice(name, start, start + _RUN)


def _importance(squares: torch.Tensor) -> torch.Tensor | None:
    return squares.contiguous() if bool((squares > 0).any()) else None
