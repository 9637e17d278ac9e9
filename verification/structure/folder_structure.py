"""All structure checks of a folder, from headers, scales and small files."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from verification.finding import Finding, run_checks
from verification.reading.declared import declared
from verification.reading.folder import Folder, open_folder
from verification.reading.required_tensors import Blueprint, blueprint_from_config, blueprint_of
from verification.reading.subject import Subject
from verification.structure import (
    carried,
    config,
    config_itself,
    drafts,
    duplicate_tensors,
    files,
    json_files,
    names,
    parts,
    quantization_config,
    scales,
)

Check = Callable[[Subject], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    files.check_opening,
    files.check_index,
    files.check_doubles,
    files.check_numbering,
    files.check_modes,
    files.check_leftovers,
    files.check_other_weights,
    files.check_manifest,
    config.check_architecture,
    config.check_against_source,
    config.check_class,
    config.check_counts,
    config.check_needed,
    config.check_code,
    config.check_modelopt,
    config_itself.check_numbers,
    config_itself.check_lengths,
    config_itself.check_rotary,
    config_itself.check_second_quantization,
    json_files.check_keys_once,
    carried.check_source_files,
    carried.check_added_files,
    carried.check_tokenizer,
    carried.check_generation,
    carried.check_templates,
    carried.check_ends,
    drafts.check_drafts,
    names.check_missing,
    names.check_unknown,
    names.check_tied,
    names.check_protected,
    names.check_experts,
    parts.check_method,
    quantization_config.check_fields,
    quantization_config.check_classes,
    quantization_config.check_expressions,
    quantization_config.check_beside,
    parts.check_compressed_tensors,
    parts.check_cache,
    parts.check_parts,
    parts.check_plain,
    parts.check_ignore,
    parts.check_ignore_of_unrun,
    scales.check_finite,
    scales.check_zero,
    scales.check_shared,
    scales.check_outliers,
    scales.check_dimensions,
    scales.check_nvfp4_range,
    duplicate_tensors.check_doubles,
)


def open_subject(path: Path, source: Source | None) -> Subject:
    """Raises SixfoldError where `path` is no folder of weights."""
    folder = open_folder(path)
    return Subject(folder, declared(folder.config), _blueprint(folder, source), source)


def as_held(path: Path, source: Source | None) -> Source | None:
    """The source with all experts of a layer in one tensor where a folder holds them so."""
    if source is None or not source.checkpoint.slices or not path.is_dir():
        return source
    held = open_folder(path).tensors
    return source.as_stored if any(cut.stack in held for cut in source.checkpoint.slices.values()) else source


def _blueprint(folder: Folder, source: Source | None) -> Blueprint | None:
    if source is not None:
        return blueprint_of(source)
    try:
        return blueprint_from_config(folder.config, folder.path, folder.tensors) if folder.config else None
    except SixfoldError:
        return None


def check_structure(subject: Subject) -> list[Finding]:
    with torch_threads(1):  # there are thousands of small tensors, which threads would wait for each other over
        return run_checks(CHECKS, subject)
