"""All structure checks of a GGUF file."""

from pathlib import Path

from sixfold.model.source import Source
from verification.finding import Finding, run_checks
from verification.reading.gguf_file import open_gguf
from verification.structure.gguf import keys, rope, tensors, tokenizer
from verification.structure.gguf.subject import GgufSubject

CHECKS = (
    *keys.CHECKS,
    tokenizer.check_tokenizer,
    tensors.check_offsets,
    tensors.check_known,
    tensors.check_source,
    tensors.check_names,
    tensors.check_shapes,
    tensors.check_types,
    tensors.check_doubles,
    rope.check_factors,
)


def open_gguf_subject(path: Path, source: Source | None) -> GgufSubject:
    """Raises SixfoldError where the header does not hold: nothing else can be checked then."""
    return GgufSubject(open_gguf(path), source)


def check_gguf_structure(subject: GgufSubject) -> list[Finding]:
    return run_checks(CHECKS, subject)
