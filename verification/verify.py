"""Whether an artifact is sound and holds the weights of its source: everything that needs no forward pass."""

import time
from math import prod
from pathlib import Path

from sixfold.checkpoint.location import check_artifact
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.freed_memory import kept_heap
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import weights_gone
from verification.reading.weights import CodedWeights, FolderWeights
from verification.result import Verification, manifest_of
from verification.structure.folder_structure import as_held, check_structure, open_subject
from verification.structure.gguf.structure import check_gguf_structure, open_gguf_subject
from verification.structure.tensor_parallel import misfits
from verification.weights.compensated_codes import Targets, targets_of
from verification.weights.recorded_scales import RecordedScales, check_recorded_inputs, record_beside
from verification.weights.weight_check import TensorError, check_weights
from verification.weights.weight_numbers import check_numbers


def verify(path: Path, source: Source | None, progress: Progress) -> Verification:
    """path: a model folder or a GGUF file (the first part of a split one).

    Raises SixfoldError only where there is nothing to check; whatever is wrong with an artifact is a Finding.
    """
    gone = weights_gone(path) if path.is_dir() or not path.exists() else None
    if gone is not None:
        return Verification(path, "folder" if path.is_dir() else "gguf", {}, source, (gone,), None, None, 0.0)
    if path.is_dir():
        return _verify_folder(path, source, progress)
    check_artifact(path)
    return _verify_gguf(path, source, progress)


def _verify_folder(path: Path, source: Source | None, progress: Progress) -> Verification:
    started = time.monotonic()
    source = as_held(path, source)
    subject = open_subject(path, source)
    record = record_beside(path, manifest_of(path) or {})
    findings = check_structure(subject)
    findings += check_recorded_inputs(record, subject) if record is not None else ()
    errors, more = _check_weights(path, FolderWeights(subject), source, progress)
    files = {name: subject.folder.files[name] for name in subject.folder.weight_files}
    split = misfits(subject)
    return Verification(
        path, "folder", files, source, _distinct(findings, more), errors, split, time.monotonic() - started
    )


def _verify_gguf(path: Path, source: Source | None, progress: Progress) -> Verification:
    started = time.monotonic()
    try:
        subject = open_gguf_subject(path, source)
    except SixfoldError as error:
        what = error.what
        finding = Finding("files.header", path.name, what, "llama.cpp refuses the file", error.remedy or EXPORT_AGAIN)
        files = {path.name: path.stat().st_size}
        return Verification(path, "gguf", files, source, (finding,), None, None, time.monotonic() - started)
    findings = check_gguf_structure(subject)
    errors, more = _check_weights(path, subject.weights, source, progress)
    return Verification(
        path,
        "gguf",
        subject.file.sizes,
        source,
        _distinct(findings, more),
        errors,
        None,
        time.monotonic() - started,
    )


def _check_weights(
    path: Path, weights: CodedWeights, source: Source | None, progress: Progress
) -> tuple[tuple[TensorError, ...] | None, tuple[Finding, ...]]:
    if source is None:
        total = sum(prod(weights.shape(name)) for name in weights.names())
        with kept_heap(), progress("reading weights", total, "weights") as advance:
            return None, tuple(check_numbers(weights, advance))
    total = sum(prod(tensor.shape) for tensor in source.checkpoint.tensors.values())
    with kept_heap(), progress("comparing weights", total, "weights") as advance:
        smooths = _moved(path, source) or _smooths(path)
        report = check_weights(weights, source, advance, _compensated(path), smooths)
    return report.errors, report.findings


def _compensated(path: Path) -> Targets | None:
    """None of an artifact whose manifest says nothing of errors compensated, as no other tool's does."""
    manifest = manifest_of(path) or {}
    recipe = manifest.get("recipe")
    known = isinstance(recipe, dict) and recipe.get("rounding") == "compensated" and "scheme" in recipe
    return targets_of(path, manifest) if known else None


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
