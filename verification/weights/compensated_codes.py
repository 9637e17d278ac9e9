"""Where errors were compensated, each code is nearest to something else than its weight, and that can be computed.

With the codes of a row standing, the output error of one weight w_j alone is least at

    w'_j - (D M)_j / M_jj        D = W' - W, M the damped second moments of the input

whatever order or search led there. A compensated artifact holds nearly every code within half a step of it, and none
three steps away; a code of which a higher bit changed afterwards is. Needs the statistics that the artifact was made
by, beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sixfold.artifact.workspace import CALIBRATION
from sixfold.statistics.input_moments import InputMoments
from sixfold.statistics.statistics import Statistics, existing_statistics
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


@dataclass(frozen=True)
class Targets:
    """statistics: those that the artifact was made by; None where they are not at hand, or tell nothing of it."""

    statistics: Statistics | None = None
    _known: InputMoments | None = field(default=None, repr=False)

    def misplaced(self, linear: str, codes: Codes, held: torch.Tensor, source: torch.Tensor) -> Misplaced | None:
        """The worst code of a Linear; None where none is out of place, or nothing is known of its input.

        held, source: float32 [out, in], what the artifact's codes mean and what was rounded.
        """
        moments = self._known.of(linear) if self._known is not None else None
        return None if moments is None else misplaced(codes, held, source, moments.damped.to(held.device))


def targets_of(path: Path, manifest: Mapping[str, Any], device: torch.device) -> Targets:
    """path: of the artifact. device: where weights are compared. The statistics are looked for beside the artifact's
    folder, where a run leaves them."""
    if manifest["recipe"]["scheme"] == ROUNDED_INPUTS:
        return Targets()
    folder = (path.absolute() if path.is_dir() else path.absolute().parent).parent / CALIBRATION
    for candidate in (folder, *sorted(folder.glob("profile-*"))):
        found = existing_statistics(candidate)
        if found is not None and found.digest == manifest.get("statistics") and found.has_moments:
            return Targets(found, InputMoments(found, device))
    return Targets()


def misplaced(codes: Codes, held: torch.Tensor, source: torch.Tensor, moments: torch.Tensor) -> Misplaced | None:
    """moments: float32 [in, in], damped."""
    target = held - ((held - source) @ moments) / moments.diagonal()
    scale = codes.scale.expand(source.shape)
    places = torch.where(scale != 0, (target - codes.base) / scale, codes.numbers)
    steps = steps_off(codes, places, _FINEST * float(codes.grid[-1]))
    worst = steps.amax(1)
    typical, tail = float(worst.median()), float(_of_all_but_a_hundredth(worst))
    if typical > _CONVERGED:
        return None
    largest = source.abs().amax(1, keepdim=True)
    usual = _of_all_but_a_hundredth(largest.flatten())
    wrong = (steps > max(_STEPS, _SPREAD * typical, _TAIL * tail)) & (largest <= _OUTLYING * usual)
    rows = int(wrong.any(1).sum())
    if not rows or rows > max(1, _FEW * len(wrong)):
        return None
    return worst_of(codes, target, scale, steps, wrong, int(wrong.sum()))


def _of_all_but_a_hundredth(values: torch.Tensor) -> torch.Tensor:
    """The largest. values: [rows]."""
    return values.sort().values[int(0.99 * (len(values) - 1))]
