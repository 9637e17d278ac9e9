"""Where errors were compensated, each code is nearest to something else than its weight, and that can be computed.

With the codes of a row standing, the output error of one weight w_j alone is least at

    w'_j - (D M)_j / M_jj        D = W' - W, M the damped second moments of the input

whatever order or search led there. A compensated artifact holds nearly every code within half a step of it, and none
three steps away; a code of which a higher bit changed afterwards is. Needs the statistics that the artifact was made
by, beside it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from sixfold.artifact.workspace import CALIBRATION
from sixfold.statistics.input_moments import InputMoments
from sixfold.statistics.statistics import existing_statistics
from verification.reading.held_source import HeldSource
from verification.reading.stated_rounding import ROUNDED_INPUTS
from verification.reading.stored_codes import Codes
from verification.weights.code_check import Misplaced, steps_off, worst_of

_STEPS = 3.0
_SPREAD = 4.0
_TAIL = 3.5
"""A code is out of place beyond so many steps, so many times the worst code of half the rows, and so many times that of
all but a hundredth: inputs with a few channels of hundreds of times the others' size leave single rows behind."""

_CONVERGED = 1.5
"""Steps, of the worst code of half the rows, beyond which a tensor was not compensated, whatever others of its artifact
were: ggml's types for rows that 256 does not divide, say."""

_OUTLYING = 2.0
"""Times the largest weight of all but a hundredth of the rows. Rows with larger ones write the massive activations of a
trained model, and are left farther from their best than all others by any order of rounding."""

_FINEST = 1 / 100
"""Of the largest number: floating-point codes near zero have steps so small that nothing is nearest to anything."""

_FEW = 0.05
"""Share of rows, one at least, that damage may touch; more are another way of rounding."""


_TOGETHER = 512 << 20
"""Bytes of moments of matrices that are looked at together."""


@dataclass(frozen=True)
class Targets:
    """known: by the name of a Linear its input's damped second moments, float32 [in, in], of the calibration that the
    artifact was made by, or None. None where that is not at hand, or tells nothing of the artifact."""

    known: Callable[[str], torch.Tensor | None] | None = None

    def misplaced(
        self, linears: Sequence[str], codes: Codes, held: torch.Tensor, source: torch.Tensor
    ) -> Iterator[tuple[str, Misplaced]]:
        """The worst code of each Linear that has one out of place.

        codes, held, source: of matrices of one shape under one another, one for each of `linears`; held and source
        float32 [matrices * out, in], what the artifact's codes mean and what was rounded.
        """
        if self.known is None:
            return
        rows, columns = len(source) // len(linears), source.shape[1]
        most = max(1, _TOGETHER // (4 * columns**2))
        for first in range(0, len(linears), most):
            moments = [self.known(name) for name in linears[first : first + most]]
            for start, of in _runs(moments):
                names = linears[first + start : first + start + len(of)]
                part = slice((first + start) * rows, (first + start + len(of)) * rows)
                given = codes.rows(part.start, part.stop), held[part], source[part]
                found = misplaced(*given, of[0][None] if len(of) == 1 else torch.stack(of))
                yield from ((name, worst) for name, worst in zip(names, found, strict=True) if worst is not None)


def _runs(moments: Sequence[torch.Tensor | None]) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Neighbors of which something is known, and where the first is."""
    for known, run in groupby(enumerate(moments), key=lambda entry: entry[1] is not None):
        if known:
            places, found = zip(*run, strict=True)
            yield places[0], list(found)


def targets_of(path: Path, manifest: Mapping[str, Any], held: HeldSource) -> Targets:
    """path: of the artifact. held: what it is compared with. The statistics are looked for beside the artifact's
    folder, where a run leaves them."""
    if manifest["recipe"]["scheme"] == ROUNDED_INPUTS:
        return Targets()
    folder = (path.absolute() if path.is_dir() else path.absolute().parent).parent / CALIBRATION
    for candidate in (folder, *sorted(folder.glob("profile-*"))):
        found = existing_statistics(candidate)
        if found is not None and found.digest == manifest.get("statistics") and found.has_moments:
            return Targets(partial(_damped, InputMoments(found, held.device), held))
    return Targets()


def _damped(moments: InputMoments, held: HeldSource, linear: str) -> torch.Tensor | None:
    """Made once for all variants of the same calibration, and for all Linears that read the same."""
    if not moments.statistics.has(linear):
        return None
    place = moments.statistics.place_of(linear)

    def damped() -> torch.Tensor | None:
        found = moments.of_place(*place)
        return None if found is None else found.damped

    return held.once((moments.statistics.digest, *place), damped)


def misplaced(codes: Codes, held: torch.Tensor, source: torch.Tensor, moments: torch.Tensor) -> list[Misplaced | None]:
    """The worst code of each of several matrices under one another, None where none is out of place. moments: float32
    [matrices, in, in], damped."""
    count, rows = len(moments), len(source) // len(moments)
    off = (held - source).unflatten(0, (count, rows)) @ moments
    target = held - (off / moments.diagonal(dim1=1, dim2=2)[:, None]).flatten(0, 1)
    scale = codes.scale.expand(source.shape)
    places = torch.where(scale != 0, (target - codes.base) / scale, codes.numbers)
    steps = steps_off(codes, places, _FINEST * float(codes.grid[-1]))
    worst = steps.amax(1).view(count, rows)
    typical, tail = worst.median(1).values, _of_all_but_a_hundredth(worst)
    largest = source.abs().amax(1).view(count, rows)
    limit = torch.maximum(_SPREAD * typical, _TAIL * tail).clamp(min=_STEPS)
    usual = largest <= _OUTLYING * _of_all_but_a_hundredth(largest)[:, None]
    wrong = (steps.view(count, rows, -1) > limit[:, None, None]) & usual[..., None]
    touched = wrong.any(2).sum(1)
    # One wait for a GPU for all of them.
    named = ((typical <= _CONVERGED) & (touched > 0) & (touched <= max(1, _FEW * rows))).tolist()

    def of(number: int) -> Misplaced:
        own = slice(number * rows, (number + 1) * rows)
        here = wrong[number]
        return worst_of(codes.rows(own.start, own.stop), target[own], scale[own], steps[own], here, int(here.sum()))

    return [of(number) if out else None for number, out in enumerate(named)]


def _of_all_but_a_hundredth(values: torch.Tensor) -> torch.Tensor:
    """The largest of each row, [matrices, rows] -> [matrices]."""
    return values.sort(1).values[:, int(0.99 * (values.shape[1] - 1))]
