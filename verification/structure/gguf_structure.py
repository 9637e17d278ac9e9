"""All structure checks of a GGUF file."""

from pathlib import Path

from sixfold.model.source import Source
from verification.finding import Finding, run_checks
from verification.reading.gguf_file import open_gguf
from verification.structure import gguf_keys, gguf_rope, gguf_tensors, gguf_tokenizer
from verification.structure.gguf_subject import GgufSubject

CHECKS = (
    *gguf_keys.CHECKS,
    gguf_tokenizer.check_tokenizer,
    gguf_tensors.check_offsets,
    gguf_tensors.check_known,
    gguf_tensors.check_source,
    gguf_tensors.check_names,
    gguf_tensors.check_shapes,
    gguf_tensors.check_types,
    gguf_tensors.check_doubles,
    gguf_rope.check_factors,
)


def open_gguf_subject(path: Path, source: Source | None) -> GgufSubject:
    """Raises SixfoldError where the header does not hold: nothing else can be checked then."""
    return GgufSubject(open_gguf(path), source)


def check_gguf_structure(subject: GgufSubject) -> list[Finding]:
    return run_checks(CHECKS, subject)
