"""What running artifacts shows: divergence from the source and a smoke test, of several artifacts side by side."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
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
    scored_with_source,
)
from verification.divergence.engine_answers import answers_of_engine
from verification.divergence.engine_inputs import cache_rules, can_collapse, check_inputs, folder_rules, gguf_rules
from verification.divergence.expert_inputs import experts_at_once
from verification.divergence.plain_run import PlainRun, PlainWeights, plain_run
from verification.divergence.unpruned import Unpruned, unpruned_run
from verification.divergence.walk import Run
from verification.finding import Finding
from verification.reading.held_source import HeldSource, SourceWeights
from verification.reading.subject import Subject
from verification.reading.weights import CodedWeights, FolderWeights
from verification.result import gated_by_recipe, gates_of
from verification.smoke.smoke_test import Answering, Smoke, smoke
from verification.structure.folder_structure import open_subject
from verification.structure.gguf.structure import open_gguf_subject
from verification.structure.gguf.subject import GgufSubject
from verification.verify import Opened
from verification.weights.compared_weights import ComparedWeights

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
    """weights: to be run, compared as they are read. runs: of an artifact, by their names. plain: the run that its gate
    refers to, None where there is none."""

    artifact: Opened
    weights: ComparedWeights
    runs: Mapping[str, Run]
    plain: PlainRun | None

    @property
    def path(self) -> Path:
        return self.artifact.verification.path


def measured(artifacts: Sequence[Opened], held: HeldSource, progress: Progress) -> list[Measured | SixfoldError]:
    """Of each artifact whose structure was found sound, or why nothing could be measured. artifacts: of one source and
    one workspace, at least one. Their weights are compared by the way, as far as they are read."""
    source = held.source
    cache = cache_of(artifacts[0].verification.path)
    try:
        tokenizer = load_tokenizer(source.checkpoint.folder)
        windows = held_out(tokenizer)
        jobs = _sharing([_job(artifact, held, windows, cache) for artifact in artifacts])
        unpruned = unpruned_run(source, windows, cache, progress)
        runs = dict(_runs(job for job in jobs if not isinstance(job, SixfoldError)))
        before = None if unpruned is None else unpruned.run
        own = SourceWeights(held)
        scores = scored_with_source(source, own, list(runs.values()), windows, cache, progress, before)
    except SixfoldError as error:
        return [error for _ in artifacts]
    by_run = dict(zip(runs, scores, strict=True))
    answering = Answering(held, tokenizer, cache, experts_at_once(lambda parameter: None))

    def end(job: _Job | SixfoldError) -> Measured | SixfoldError:
        if isinstance(job, SixfoldError):
            return job
        try:
            return _measured(job, by_run, windows, unpruned, answering, progress)
        except SixfoldError as error:
            return error

    return [end(job) for job in jobs]


def _job(artifact: Opened, held: HeldSource, windows: Windows, cache: Path) -> _Job | SixfoldError:
    path, plain = artifact.verification.path, None
    assert artifact.subject is not None
    assert artifact.weights is not None
    assert artifact.comparison is not None
    try:
        rules = rules_of(artifact.subject)
        if gates_of(path).get("max_kl_ratio") is not None:
            try:
                plain = plain_run(held, artifact.weights, plain_rules_of(artifact.subject), windows, cache)
            except SixfoldError:  # a format that cannot be rounded here
                if gated_by_recipe(path):
                    raise
    except SixfoldError as error:
        return error
    weights = ComparedWeights(artifact.weights, held, artifact.comparison)
    return _Job(artifact, weights, {name: Run(weights, rule) for name, rule in rules.items()}, plain)


def _sharing(jobs: Sequence[_Job | SixfoldError]) -> list[_Job | SixfoldError]:
    """Those whose plain runs differ in how inputs are rounded alone have the same weights for them."""
    known: dict[Hashable, PlainWeights] = {}

    def sharing(job: _Job | SixfoldError) -> _Job | SixfoldError:
        if isinstance(job, SixfoldError) or job.plain is None:
            return job
        weights = known.setdefault(job.plain.weights.key, job.plain.weights)
        return replace(job, plain=replace(job.plain, weights=weights))

    return [sharing(job) for job in jobs]


def _runs(jobs: Iterable[_Job]) -> Iterator[tuple[Any, Run]]:
    """Every run that has to be made, with what it is found by: (artifact, its name), or a plain run's file."""
    for job in jobs:
        for name, run in job.runs.items():
            yield (job.path, name), run
        if job.plain is not None and job.plain.known is None:
            yield job.plain.kept, job.plain.run


def _measured(
    job: _Job,
    scores: Mapping[Any, Scored | SixfoldError],
    windows: Windows,
    unpruned: Unpruned | None,
    answering: Answering,
    progress: Progress,
) -> Measured:
    """Raises SixfoldError where something could not be measured."""
    found = {name: _or_raise(scores[job.path, name]) for name in job.runs}
    plain = None
    if job.plain is not None:
        with nullcontext() if gated_by_recipe(job.path) else suppress(SixfoldError):
            plain = job.plain.known or job.plain.keep(_or_raise(scores[job.plain.kept]).score)
    inputs: tuple[Finding, ...] = ()
    weights, comparison = job.artifact.weights, job.artifact.comparison
    if isinstance(weights, FolderWeights) and "engine" in found:
        inputs = tuple(check_inputs(weights.subject, found["engine"].inputs))
    since = None
    if unpruned is not None:
        lost = {name: run.original for name, run in found.items() if run.original is not None}
        since = SinceOriginal(unpruned.of.name, unpruned.of.fingerprint, lost)
    own = {name: run.score for name, run in found.items()}
    gguf = None if job.path.is_dir() else job.path
    exact = comparison is not None and all(map(comparison.is_exact, comparison.layers))
    smoked = smoke(answering, None if exact else weights, progress, gguf)
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
    """`plain_rules_of` an artifact that is opened for it."""
    return plain_rules_of(_opened(path, source))


def plain_rules_of(subject: Subject | GgufSubject) -> Mapping[str, Rule]:
    """How the inputs are rounded of the artifact's formats, without what calibration found."""
    if isinstance(subject, GgufSubject):
        return gguf_rules(subject)
    return {**folder_rules(subject, fixed=False), **cache_rules(subject, fixed=False)}


def runs_of(path: Path, source: Source) -> tuple[CodedWeights, dict[str, Mapping[str, Rule]]]:
    """The artifact's weights, and `rules_of` it, opened for it."""
    subject = _opened(path, source)
    weights = subject.weights if isinstance(subject, GgufSubject) else FolderWeights(subject)
    return weights, rules_of(subject)


def _opened(path: Path, source: Source) -> Subject | GgufSubject:
    return open_subject(path, source) if path.is_dir() else open_gguf_subject(path, source)


def rules_of(subject: Subject | GgufSubject) -> dict[str, Mapping[str, Rule]]:
    """How inputs are rounded in each run of an artifact, by its name."""
    runs: dict[str, Mapping[str, Rule]] = {"weights": {}}
    if isinstance(subject, GgufSubject):
        return runs | {"engine": gguf_rules(subject)}
    rules, caches = folder_rules(subject), cache_rules(subject)
    if rules or caches:
        runs["engine"] = {**rules, **caches}
        if can_collapse(subject):
            runs["engine-collapsed"] = {**folder_rules(subject, collapsed=True), **caches}
    if caches:
        runs["engine-16-bit-cache"] = rules
    return runs
