"""The complete verdict on artifacts: structure, weights, divergence, the gates of their recipes, and a smoke test."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from verification.divergence.divergence import SourceNotRunError
from verification.finding import Finding, Severity
from verification.gates import check_gates
from verification.measure import measured
from verification.result import Verification, gated_by_recipe, gates_of
from verification.structure.folder_structure import as_held
from verification.verify import verify


def judge(path: Path, source: Source | None, progress: Progress) -> Verification:
    """`verify`, and where an artifact with a source is sound, its divergence from it. Raises as `verify` does."""
    (found,) = judge_all([path], source, progress)
    return found


def judge_all(paths: Sequence[Path], source: Source | None, progress: Progress) -> list[Verification]:
    """`judge` of several artifacts of one source. Those that are sound are run side by side."""
    sources: dict[bool, Source] = {}
    found = []
    for path in paths:
        held = as_held(path, source)
        if held is not None:  # the source, or that with all experts of a layer in one tensor: made once
            held = sources.setdefault(held is source, held)
        found.append(verify(path, held, progress))
    for held in sources.values():
        sound = [n for n, verification in enumerate(found) if verification.source is held and verification.passed]
        for n, judged in zip(sound, _with_divergence([found[n] for n in sound], held, progress), strict=True):
            found[n] = judged
    return found


def _with_divergence(checked: Sequence[Verification], source: Source, progress: Progress) -> list[Verification]:
    """checked: sound ones, of a source. With divergence, gates and smoke test, or with the reason why not."""
    if not checked:
        return []
    started = time.monotonic()
    found = []
    for verification, end in zip(checked, measured(checked, source, progress), strict=True):
        path = verification.path
        if isinstance(end, SixfoldError):
            found.append(replace(verification, findings=(_not_measured(path, end), *verification.findings)))
            continue
        failed = check_gates(end.divergence, gates_of(path))
        findings = (*end.inputs, *failed, *end.smoke.findings, *verification.findings)
        found.append(replace(verification, divergence=end.divergence, smoke=end.smoke, findings=findings))
    seconds = (time.monotonic() - started) / len(checked)
    return [replace(verification, seconds=verification.seconds + seconds) for verification in found]


def _not_measured(path: Path, error: SixfoldError) -> Finding:
    """An error where the recipe has a gate, which what was not measured does not hold, unless no variant can be."""
    gated = gated_by_recipe(path) and not isinstance(error, SourceNotRunError)
    remedy = f"{error.remedy}, or take the gates out of the recipe" if gated else error.remedy
    what = f"divergence was not measured: {error.what}"
    severity: Severity = "error" if gated else "warning"
    return Finding("divergence.not-measured", path.name, what, "its quality is unknown", remedy, severity)
