"""Answers as they come in, one JSON line each, so that a run which was stopped asks only what is missing.

The first line states the conditions: {"schema", "conditions"}. Each other one is an Answer of evaluation.client.asking,
in the order in which they came. A line is written whole and synced before the next problem counts as answered; one that
was cut off by a kill is dropped on the next opening. The file is locked while it is open.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from evaluation.client.asking import Answer
from sixfold.artifact.workspace import digest_of
from sixfold.errors import SixfoldError

SCHEMA = 1
_FIELDS = {field.name for field in fields(Answer)}
_NEEDED = {"task_id", "sample", "text", "thinking", "finish"}


@dataclass(frozen=True)
class Records:
    """answers: by problem and sample, each once."""

    path: Path
    answers: dict[tuple[str, int], Answer]
    file: BinaryIO

    def add(self, answer: Answer) -> None:
        if answer.key in self.answers:
            return
        self.file.write(_line(answer.as_data()))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.answers[answer.key] = answer


def records_path(folder: Path, task: str, conditions: Mapping[str, Any]) -> Path:
    """Of other conditions another file: answers under two of them are never counted together."""
    return folder / f"{task}-{digest_of(conditions)[:12]}.jsonl"


@contextmanager
def opened(path: Path, conditions: Mapping[str, Any]) -> Iterator[Records]:
    """Raises SixfoldError where another run writes to the file, or where it is damaged in its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SixfoldError(f"another run writes to {path}", "wait for it, or stop it") from error
        file.seek(0)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a kill cut the last line off
            file.truncate(whole)
        lines = data[:whole].splitlines()
        if lines:
            answers = _read(path, lines, conditions)
        else:
            answers = {}
            file.write(_line({"schema": SCHEMA, "conditions": dict(conditions)}))
            file.flush()
        yield Records(path, answers, file)


def _read(path: Path, lines: list[bytes], conditions: Mapping[str, Any]) -> dict[tuple[str, int], Answer]:
    head = _object(lines[0])
    if head is None or head.get("schema") != SCHEMA or head.get("conditions") != dict(conditions):
        raise SixfoldError(f"{path} was not written under these conditions", "move it away, and ask again")
    answers: dict[tuple[str, int], Answer] = {}
    for number, line in enumerate(lines[1:], 2):
        found = _object(line)
        if found is None or not _NEEDED <= found.keys() <= _FIELDS:
            raise SixfoldError(
                f"line {number} of {path} is no answer", "remove that line: its problem alone is asked again"
            )
        answer = Answer(**found)
        answers.setdefault(answer.key, answer)
    return answers


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _line(value: Mapping[str, Any]) -> bytes:
    """With "\\ud800" as an escape: a model may answer with half of a character."""
    return json.dumps(value).encode() + b"\n"
