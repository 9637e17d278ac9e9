"""The complete verdict on an artifact: structure, weights, divergence, the gates of its recipe, and a smoke test."""

import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.texts.held_out_text import held_out
from verification.divergence.activations import Rule
from verification.divergence.divergence import Divergence, SinceOriginal, SourceNotRunError, reference_of, scored
from verification.divergence.engine_inputs import can_collapse, check_inputs, folder_rules, gguf_rules
from verification.divergence.plain_run import plain_score
from verification.divergence.unpruned import unpruned_run
from verification.finding import Finding, Severity
from verification.gates import check_gates
from verification.reading.weights import CodedWeights, FolderWeights
from verification.result import Verification, gated_by_recipe, gates_of
from verification.smoke.smoke_test import Smoke, smoke
from verification.structure.folder_structure import as_held, open_subject
from verification.structure.gguf_structure import open_gguf_subject
from verification.verify import verify

CACHE = "verification-reference"
"""Folder beside the artifacts of a model that keeps the source's own run for the next variant."""


def judge(path: Path, source: Source | None, progress: Progress) -> Verification:
    """`verify`, and where an artifact with a source is sound, its divergence from it. Raises as `verify` does."""
    source = as_held(path, source)
    verification = verify(path, source, progress)
    if source is None or not verification.passed:
        return verification
    started = time.monotonic()
    try:
        divergence, smoked, inputs = _measure(path, source, progress)
    except SixfoldError as error:
        return replace(verification, findings=(_not_measured(path, error), *verification.findings))
    failed = tuple(check_gates(divergence, gates_of(path)))
    return replace(
        verification,
        divergence=divergence,
        smoke=smoked,
        findings=(*inputs, *failed, *smoked.findings, *verification.findings),
        seconds=verification.seconds + time.monotonic() - started,
    )


def _not_measured(path: Path, error: SixfoldError) -> Finding:
    """An error where the recipe has a gate, which what was not measured does not hold, unless no variant can be."""
    gated = gated_by_recipe(path) and not isinstance(error, SourceNotRunError)
    remedy = f"{error.remedy}, or take the gates out of the recipe" if gated else error.remedy
    what = f"divergence was not measured: {error.what}"
    severity: Severity = "error" if gated else "warning"
    return Finding("divergence.not-measured", path.name, what, "its quality is unknown", remedy, severity)


def _measure(path: Path, source: Source, progress: Progress) -> tuple[Divergence, Smoke, tuple[Finding, ...]]:
    weights, runs = runs_of(path, source)
    tokenizer = load_tokenizer(source.checkpoint.folder)
    windows = held_out(tokenizer)
    cache = cache_of(path)
    reference = reference_of(source, windows, cache, progress)
    plain = None
    if gates_of(path).get("max_kl_ratio") is not None:
        with nullcontext() if gated_by_recipe(path) else suppress(SixfoldError):  # formats that cannot be rounded here
            plain = plain_score(source, weights, plain_rules(path, source), windows, reference, cache, progress)
    unpruned = unpruned_run(source, windows, cache, progress)
    before = None if unpruned is None else unpruned.run
    found = {name: scored(source, weights, rules, windows, reference, progress, before) for name, rules in runs.items()}
    smoked = smoke(source, weights, tokenizer, cache, progress, None if path.is_dir() else path)
    inputs: tuple[Finding, ...] = ()
    if isinstance(weights, FolderWeights) and "engine" in found:
        inputs = tuple(check_inputs(weights.subject, found["engine"].inputs))
    scores = {name: run.score for name, run in found.items()}
    since = None
    if unpruned is not None:
        lost = {name: run.original for name, run in found.items() if run.original is not None}
        since = SinceOriginal(unpruned.of.name, unpruned.of.fingerprint, lost)
    return Divergence(scores, windows.tokens, len(windows.ids), plain, since), smoked, inputs


def cache_of(path: Path) -> Path:
    """Folder of what the source made of held-out text, for all its variants."""
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    return folder.parent / CACHE


def plain_rules(path: Path, source: Source) -> Mapping[str, Rule]:
    """How the inputs are rounded of the artifact's formats, without what calibration found."""
    if not path.is_dir():
        return gguf_rules(open_gguf_subject(path, source))
    return folder_rules(open_subject(path, source), fixed=False)


def runs_of(path: Path, source: Source) -> tuple[CodedWeights, dict[str, Mapping[str, Rule]]]:
    """The artifact's weights, and the rules of each run by its name."""
    runs: dict[str, Mapping[str, Rule]] = {"weights": {}}
    if not path.is_dir():
        file = open_gguf_subject(path, source)
        return file.weights, runs | {"engine": gguf_rules(file)}
    subject = open_subject(path, source)
    rules = folder_rules(subject)
    if rules:
        runs["engine"] = rules
        if can_collapse(subject):
            runs["engine-collapsed"] = folder_rules(subject, collapsed=True)
    return FolderWeights(subject), runs
