"""The complete verdict on artifacts: structure, weights, divergence, the gates of their recipes, and a smoke test."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from verification.divergence.walk import device
from verification.finding import Finding, Severity
from verification.gates import check_gates
from verification.measure import Measured, measured
from verification.reading.held_source import HeldSource
from verification.result import Verification, gated_by_recipe, gates_of
from verification.running import SourceNotRunError
from verification.structure.folder_structure import as_held
from verification.verify import opened, with_weights


def judge(path: Path, source: Source | None, progress: Progress) -> Verification:
    """`verify`, and where an artifact with a source is sound, its divergence from it. Raises as `verify` does."""
    (found,) = judge_all([path], source, progress)
    return found


def judge_all(paths: Sequence[Path], source: Source | None, progress: Progress) -> list[Verification]:
    """`judge` of several artifacts of one source. Those whose structure is sound are compared and run side by side."""
    shared: dict[bool, HeldSource] = {}
    artifacts = []
    for path in paths:
        of_path = as_held(path, source)
        held = None
        if of_path is not None:  # the source, or that with all experts of a layer in one tensor: made once
            if (of_path is source) not in shared:
                shared[of_path is source] = HeldSource(of_path, device())
            held = shared[of_path is source]
        artifacts.append((opened(path, held), held))
    ends: dict[int, Measured | SixfoldError] = {}
    started = time.monotonic()
    for held in shared.values():
        sound = [
            n for n, (one, of) in enumerate(artifacts) if of is held and one.comparison and one.verification.passed
        ]
        if sound:
            ends |= zip(sound, measured([artifacts[n][0] for n in sound], held, progress), strict=True)
    seconds = (time.monotonic() - started) / max(1, len(ends))
    return [_judged(with_weights(one, progress), ends.get(n), seconds) for n, (one, _) in enumerate(artifacts)]


def _judged(found: Verification, end: Measured | SixfoldError | None, seconds: float) -> Verification:
    """With divergence, gates and smoke test, or with the reason why not. found: with what weights have shown."""
    if end is None:
        return found
    found = replace(found, seconds=found.seconds + seconds)
    if not found.passed:
        return found
    if isinstance(end, SixfoldError):
        return replace(found, findings=(_not_measured(found.path, end), *found.findings))
    failed = check_gates(end.divergence, gates_of(found.path))
    findings = (*end.inputs, *failed, *end.smoke.findings, *found.findings)
    return replace(found, divergence=end.divergence, smoke=end.smoke, findings=findings)


def _not_measured(path: Path, error: SixfoldError) -> Finding:
    """An error where the recipe has a gate, which what was not measured does not hold, unless no variant can be."""
    gated = gated_by_recipe(path) and not isinstance(error, SourceNotRunError)
    remedy = f"{error.remedy}, or take the gates out of the recipe" if gated else error.remedy
    what = f"divergence was not measured: {error.what}"
    severity: Severity = "error" if gated else "warning"
    return Finding("divergence.not-measured", path.name, what, "its quality is unknown", remedy, severity)
