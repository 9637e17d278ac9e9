"""Whether JSON files that engines read say one thing only: of a key that stands twice, one reader takes the first
value, and another the last."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError
from verification.finding import Finding
from verification.reading.subject import Subject
from verification.structure.json_in_sentences import shown

_OWN = ("manifest.json", "run.json", "verification.json", "README.figures.json")


def check_keys_once(subject: Subject) -> Iterator[Finding]:
    """Of files in the folder itself; the index has its own check by the tensors."""
    for name in subject.folder.files:
        if "/" in name or not name.endswith(".json") or name in _OWN or _is_the_sources(subject, name):
            continue
        for key, values in _twice(subject.folder.path / name).items():
            what = f"{key!r} stands there twice, as {' and as '.join(map(shown, values))}"
            consequence = "engines read one or the other"
            yield Finding("files.json", f"{name}: {key}", what, consequence, "remove the one that is wrong")


def _is_the_sources(subject: Subject, name: str) -> bool:
    if subject.source is None or name not in subject.source.checkpoint.extras:
        return False
    own = subject.source.checkpoint.folder / name
    return own.is_file() and own.read_bytes() == (subject.folder.path / name).read_bytes()


def _twice(path: Path) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(entries)
        if len(held) < len(entries):
            seen: dict[str, Any] = {}
            for key, value in entries:
                if key in seen and seen[key] != value:
                    found.setdefault(key, (seen[key], value))
                seen[key] = value
        return held

    try:
        parse_json(path.read_bytes(), path.name, pairs)
    except (SixfoldError, OSError):  # which has a finding of its own
        return {}
    return found
