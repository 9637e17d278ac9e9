"""Whether an artifact is sound and holds the weights of its source: everything that needs no forward pass."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from sixfold.checkpoint.location import check_artifact
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.freed_memory import kept_heap
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import weights_gone
from verification.reading.held_source import HeldSource
from verification.reading.subject import Subject
from verification.reading.weights import CodedWeights, FolderWeights
from verification.result import Verification, manifest_of, projectors_of
from verification.structure.folder_structure import as_held, check_structure, open_subject
from verification.structure.gguf.structure import check_gguf_structure, open_gguf_subject
from verification.structure.gguf.subject import GgufSubject
from verification.structure.projector.checks import ARCHITECTURE, check_projector
from verification.structure.tensor_parallel import misfits
from verification.weights.compensated_codes import Targets, targets_of
from verification.weights.recorded_scales import RecordedScales, check_recorded_inputs, record_beside
from verification.weights.weight_check import Comparison, TensorError
from verification.weights.weight_numbers import check_numbers

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Opened:
    """An artifact whose structure was checked. verification: of that alone. subject: as it was opened, for all that
    looks at it again. weights: None where there is nothing to read. comparison: of these with the source's; None
    without one."""

    verification: Verification
    subject: Subject | GgufSubject | None = None
    weights: CodedWeights | None = None
    comparison: Comparison | None = None


def verify(path: Path, source: Source | None, progress: Progress) -> Verification:
    """path: a model folder or a GGUF file (the first part of a split one).

    Raises SixfoldError only where there is nothing to check; whatever is wrong with an artifact is a Finding.
    """
    source = as_held(path, source)
    return with_weights(opened(path, None if source is None else HeldSource(source, _CPU)), progress)


def opened(path: Path, held: HeldSource | None) -> Opened:
    """Raises as `verify` does."""
    source = None if held is None else held.source
    gone = weights_gone(path) if path.is_dir() or not path.exists() else None
    if gone is not None:
        kind = "folder" if path.is_dir() else "gguf"
        return Opened(Verification(path, kind, {}, source, (gone,), None, None, 0.0))
    if not path.is_dir():
        check_artifact(path)
    return _folder(path, held) if path.is_dir() else _gguf(path, held)


def with_weights(artifact: Opened, progress: Progress) -> Verification:
    """With what its weights show: all that was not compared yet is compared now."""
    verification, weights = artifact.verification, artifact.weights
    if weights is None:
        return verification
    started = time.monotonic()
    errors: tuple[TensorError, ...] | None = None
    if artifact.comparison is None:
        total = sum(prod(weights.shape(name)) for name in weights.names())
        with kept_heap(), progress("reading weights", total, "weights") as advance:
            more = tuple(check_numbers(weights, advance))
    else:
        total = artifact.comparison.left
        with (
            kept_heap(),
            progress("comparing weights", total, "weights") if total else nullcontext(_nothing) as advance,
        ):
            report = artifact.comparison.report(advance)
        errors, more = report.errors, report.findings
    findings = _distinct(verification.findings, more)
    seconds = verification.seconds + time.monotonic() - started
    return replace(verification, findings=findings, errors=errors, seconds=seconds)


def _folder(path: Path, held: HeldSource | None) -> Opened:
    started = time.monotonic()
    subject = open_subject(path, None if held is None else held.source)
    record = record_beside(path, manifest_of(path) or {})
    findings = check_structure(subject)
    findings += check_recorded_inputs(record, subject) if record is not None else ()
    files = {name: subject.folder.files[name] for name in subject.folder.weight_files}
    split = misfits(subject)
    seconds = time.monotonic() - started
    found = Verification(path, "folder", files, subject.source, _distinct(findings), None, split, seconds)
    weights = FolderWeights(subject)
    return Opened(found, subject, weights, None if held is None else _comparison(path, weights, held))


def _gguf(path: Path, held: HeldSource | None) -> Opened:
    started = time.monotonic()
    source = None if held is None else held.source
    try:
        subject = open_gguf_subject(path, source)
    except SixfoldError as error:
        what = error.what
        finding = Finding("files.header", path.name, what, "llama.cpp refuses the file", error.remedy or EXPORT_AGAIN)
        files = {path.name: path.stat().st_size}
        return Opened(Verification(path, "gguf", files, source, (finding,), None, None, time.monotonic() - started))
    if subject.file.arch == ARCHITECTURE:
        found = tuple(check_projector(path, held))
        sizes, seconds = subject.file.sizes, time.monotonic() - started
        return Opened(Verification(path, "gguf", sizes, source, found, None, None, seconds))
    beside = [other for other in projectors_of(path) if other.is_file()]  # what is missing, the manifest's check says
    findings = _distinct(check_gguf_structure(subject), *(check_projector(other, held) for other in beside))
    sizes = {**subject.file.sizes, **{other.name: other.stat().st_size for other in beside}}
    seconds = time.monotonic() - started
    judged = Verification(path, "gguf", sizes, source, findings, None, None, seconds)
    return Opened(judged, subject, subject.weights, None if held is None else _comparison(path, subject.weights, held))


def _comparison(path: Path, weights: CodedWeights, held: HeldSource) -> Comparison:
    smooths = _moved(path, held.source) or _smooths(path)
    return Comparison(weights, held, _compensated(path, held), smooths)


def _nothing(amount: int) -> None:
    pass


def _compensated(path: Path, held: HeldSource) -> Targets | None:
    """None of an artifact whose manifest says nothing of errors compensated, as no other tool's does."""
    manifest = manifest_of(path) or {}
    recipe = manifest.get("recipe")
    known = isinstance(recipe, dict) and recipe.get("rounding") == "compensated" and "scheme" in recipe
    return targets_of(path, manifest, held) if known else None


def _smooths(path: Path) -> bool:
    """Whether the artifact's maker may have moved scales between norms and Linears: other tools, and of ours those that
    search for such scales."""
    recipe = (manifest_of(path) or {}).get("recipe")
    if not isinstance(recipe, dict) or recipe.get("exporter") in ("llmcompressor", None):
        return True
    return recipe["exporter"] == "awq" and recipe.get("rounding") != "compensated"


def _moved(path: Path, source: Source) -> RecordedScales | None:
    """Of an artifact whose maker, this project, moved scales and left a record of them beside it."""
    manifest = manifest_of(path) or {}
    recipe = manifest.get("recipe")
    known = isinstance(recipe, dict) and recipe.get("exporter") == "awq" and _smooths(path)
    record = record_beside(path, manifest) if known else None
    one_plus = frozenset(norm.weight for norm in source.architecture.norms if norm.one_plus)
    return None if record is None else RecordedScales(record, one_plus)


def _distinct(*groups: "list[Finding] | tuple[Finding, ...]") -> tuple[Finding, ...]:
    """Errors first, each once."""
    found = list(dict.fromkeys(finding for group in groups for finding in group))
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))
