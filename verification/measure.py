"""What running artifacts shows: divergence from the source and a smoke test, of several artifacts side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.texts.held_out_text import Windows, held_out
from verification.divergence.activations import Rule
from verification.divergence.divergence import (
    Divergence,
    Scored,
    SinceOriginal,
    reference_of,
    scored_together,
)
from verification.divergence.engine_answers import answers_of_engine
from verification.divergence.engine_inputs import can_collapse, check_inputs, folder_rules, gguf_rules
from verification.divergence.plain_run import PlainRun, plain_run
from verification.divergence.unpruned import Unpruned, unpruned_run
from verification.divergence.walk import Run
from verification.finding import Finding
from verification.reading.weights import CodedWeights, FolderWeights
from verification.result import Verification, gated_by_recipe, gates_of
from verification.smoke.smoke_test import Smoke, smoke
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject

CACHE = "verification-reference"
"""Folder beside the artifacts of a model that keeps the source's own run for the next variant."""


@dataclass(frozen=True)
class Measured:
    """inputs: findings of fixed input scales, and of what llama.cpp answers."""

    divergence: Divergence
    smoke: Smoke
    inputs: tuple[Finding, ...]


@dataclass(frozen=True)
class _Job:
    """runs: of an artifact, by their names. exact: whether it holds the source's weights, bit for bit. plain: the run
    that its gate refers to, None where there is none."""

    path: Path
    weights: CodedWeights
    runs: Mapping[str, Run]
    exact: bool
    plain: PlainRun | None


def measured(checked: Sequence[Verification], source: Source, progress: Progress) -> list[Measured | SixfoldError]:
    """Of each artifact that was found sound, or why nothing could be measured. checked: of one source and one
    workspace, at least one."""
    cache = cache_of(checked[0].path)
    try:
        tokenizer = load_tokenizer(source.checkpoint.folder)
        windows = held_out(tokenizer)
        reference = reference_of(source, windows, cache, progress)
        jobs = [_job(verification, source, windows, cache) for verification in checked]
        unpruned = unpruned_run(source, windows, cache, progress)
        runs = dict(_runs(job for job in jobs if not isinstance(job, SixfoldError)))
        before = None if unpruned is None else unpruned.run
        scores = scored_together(source, list(runs.values()), windows, reference, progress, before)
    except SixfoldError as error:
        return [error for _ in checked]
    by_run = dict(zip(runs, scores, strict=True))

    def end(job: _Job | SixfoldError) -> Measured | SixfoldError:
        if isinstance(job, SixfoldError):
            return job
        try:
            return _measured(job, by_run, source, windows, unpruned, tokenizer, progress)
        except SixfoldError as error:
            return error

    return [end(job) for job in jobs]


def _job(verification: Verification, source: Source, windows: Windows, cache: Path) -> _Job | SixfoldError:
    path, plain = verification.path, None
    try:
        weights, rules = runs_of(path, source)
        exact = _is_exact(verification, weights, source)
        if gates_of(path).get("max_kl_ratio") is not None:
            try:
                plain = plain_run(source, weights, plain_rules(path, source), windows, cache)
            except SixfoldError:  # a format that cannot be rounded here
                if gated_by_recipe(path):
                    raise
    except SixfoldError as error:
        return error
    runs = {name: Run(None if exact else weights, rule) for name, rule in rules.items()}
    return _Job(path, weights, runs, exact, plain)


def _is_exact(verification: Verification, weights: CodedWeights, source: Source) -> bool:
    """Whether the comparison of weights has found every tensor that is run to be the source's."""
    errors = {error.name: error for error in verification.errors or ()}
    names = source.checkpoint.tensors.keys() - set(source.architecture.not_run)
    return names <= errors.keys() and not any(
        errors[name].encoding or errors[name].relative or errors[name].rescaled or weights.slack(name) for name in names
    )


def _runs(jobs: Iterable[_Job]) -> Iterator[tuple[Any, Run]]:
    """Every run that has to be made, with what it is found by: (artifact, its name), or a plain run's file."""
    for job in jobs:
        for name, run in job.runs.items():
            yield (job.path, name), run
        if job.plain is not None and job.plain.known is None:
            # What is in 16 bits, and stays the same, is as the source has it.
            yield job.plain.kept, Run(None, job.plain.rules) if job.exact else job.plain.run


def _measured(
    job: _Job,
    scores: Mapping[Any, Scored | SixfoldError],
    source: Source,
    windows: Windows,
    unpruned: Unpruned | None,
    tokenizer: Any,
    progress: Progress,
) -> Measured:
    """Raises SixfoldError where something could not be measured."""
    found = {name: _or_raise(scores[job.path, name]) for name in job.runs}
    plain = None
    if job.plain is not None:
        with nullcontext() if gated_by_recipe(job.path) else suppress(SixfoldError):
            plain = job.plain.known or job.plain.keep(_or_raise(scores[job.plain.kept]).score)
    inputs: tuple[Finding, ...] = ()
    if isinstance(job.weights, FolderWeights) and "engine" in found:
        inputs = tuple(check_inputs(job.weights.subject, found["engine"].inputs))
    since = None
    if unpruned is not None:
        lost = {name: run.original for name, run in found.items() if run.original is not None}
        since = SinceOriginal(unpruned.of.name, unpruned.of.fingerprint, lost)
    own = {name: run.score for name, run in found.items()}
    gguf = None if job.path.is_dir() else job.path
    smoked = smoke(source, None if job.exact else job.weights, tokenizer, cache_of(job.path), progress, gguf)
    engine = None if gguf is None else answers_of_engine(gguf, windows.ids, found["engine"].losses)
    if engine is not None:
        inputs += tuple(engine.findings)
    return Measured(Divergence(own, windows.tokens, len(windows.ids), plain, since, engine), smoked, inputs)


def _or_raise(found: Scored | SixfoldError) -> Scored:
    if isinstance(found, SixfoldError):
        raise found
    return found


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
