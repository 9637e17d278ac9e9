"""Which texts a calibration reads: the built-in set, or files and folders of the user's own."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from sixfold.errors import SixfoldError, UsageError

TEXTS = Path(__file__).parent / "texts"
BUILTIN = "builtin"
SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class TextFile:
    """name: as the manifest shows it (a path as the user gave it). domain: what samples are balanced over.
    licence: "" for a user's own file."""

    path: Path
    name: str
    domain: str
    licence: str = ""

    @cached_property
    def digest(self) -> str:
        return sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Chat:
    """One conversation: messages as chat templates take them (tool arguments are objects), and the tools on offer."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


def text_files(texts: tuple[str, ...]) -> tuple[TextFile, ...]:
    """What `texts:` names: "builtin", .txt and .jsonl files, and folders of them.

    A folder's subfolders are its domains; a file is one by itself.

    Raises UsageError where a path is missing or holds no text.
    """
    found: list[TextFile] = []
    for text in texts:
        if text == BUILTIN:
            found.extend(_in_folder(TEXTS / "calibration", BUILTIN, licences()))
            continue
        path = Path(text).expanduser()
        if path.is_dir():
            files = _in_folder(path, text, {})
            if not files:
                raise UsageError(f"{path} holds no .txt or .jsonl file", "name a folder of calibration texts")
            found.extend(files)
        elif path.is_file() and path.suffix in SUFFIXES:
            found.append(TextFile(path, text, text))
        elif path.is_file():
            raise UsageError(f"{path} is neither .txt nor .jsonl", "convert it, one conversation or text a line")
        else:
            raise UsageError(f"there is no calibration text {text!r}", 'use "builtin" or the path of a file or folder')
    return tuple(found)


def _in_folder(folder: Path, title: str, known: dict[str, str]) -> list[TextFile]:
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES):
        inside = path.relative_to(folder)
        domain = inside.parts[0] if len(inside.parts) > 1 else title
        licence = known.get(f"calibration/{inside.as_posix()}", "")
        files.append(TextFile(path, f"{title}/{inside.as_posix()}", domain, licence))
    return files


def licences() -> dict[str, str]:
    """Built-in file (relative to the texts folder) -> licence, from the table in SOURCES.md."""
    rows = re.findall(r"^\| `([^`]+)` \|[^|]*\| ([^|]+) \|$", (TEXTS / "SOURCES.md").read_text(), re.MULTILINE)
    return {name: licence.strip() for name, licence in rows}


def pieces(file: TextFile, size: int) -> Iterator[str | Chat]:
    """The file's conversations and texts in order; plain text is cut at blank lines into pieces of about `size` bytes.

    Raises SixfoldError with the line where a .jsonl row is neither {"messages": [...]} nor {"text": "..."}.
    """
    if file.path.suffix == ".txt":
        yield from _cut(file.path.read_text(encoding="utf-8"), size)
        return
    for number, line in enumerate(file.path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = _row(file, number, line)
        if isinstance(row.get("messages"), list):
            yield Chat(row["messages"], row.get("tools") or [])
        elif isinstance(row.get("text"), str):
            yield from _cut(row["text"], size)
        else:
            raise SixfoldError(f'{file.path}:{number} has neither "messages" nor "text"', "correct that line")


def _row(file: TextFile, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SixfoldError(f"{file.path}:{number} is no JSON: {error.msg}", "correct that line") from error
    return row if isinstance(row, dict) else {}


def _cut(text: str, size: int) -> Iterator[str]:
    piece = ""
    length = 0
    for paragraph in re.split(r"(?<=\n)\n+", text):
        more = len(paragraph.encode()) + 1
        if piece and length + more > size:
            yield piece
            piece, length = "", 0
        piece += paragraph + "\n"
        length += more
    if piece.strip():
        yield piece
