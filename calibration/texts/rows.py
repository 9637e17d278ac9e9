"""Texts by number: a file is scanned once for the positions of its rows, and then only wanted rows are read."""

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from calibration.texts.conversations import Piece, Unreadable, piece_of, unusable
from calibration.texts.parquet import ParquetRows
from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError

_WINDOW = 1 << 20
"""Bytes of a JSON array that are looked at together, and more where a row is longer, up to _LONGEST."""
_LONGEST = 1 << 28


class Rows(Protocol):
    """Memory holds the places of the rows, never the file."""

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> list[Piece | Unreadable]:
        """The rows of these numbers, in this order. Raises SixfoldError where a row is in no known layout."""
        ...


class PlainText:
    """A .txt file, cut at blank lines into pieces of about `size` bytes; several blank lines count as one."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._places = array("Q")
        with path.open("rb") as file:
            for start, stop in _pieces(_paragraphs(file), size):
                self._places.extend((start, stop))

    def __len__(self) -> int:
        return len(self._places) // 2

    def read(self, numbers: Sequence[int]) -> list[Piece | Unreadable]:
        with self._path.open("rb") as file:
            return [self._piece(file, number) for number in numbers]

    def _piece(self, file: BinaryIO, number: int) -> str:
        text = _decoded(self._path, _bytes(file, self._places, number))
        return "".join(f"{paragraph}\n" for paragraph in re.split(r"(?<=\n)\n+", text.replace("\r\n", "\n")))


class JsonRows:
    """A file of JSON values: one a line, or all in one array."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self._places = array("Q", (n for place in _json_places(path, file) for n in place))

    def __len__(self) -> int:
        return len(self._places) // 2

    def read(self, numbers: Sequence[int]) -> list[Piece | Unreadable]:
        with self._path.open("rb") as file:
            return [self._row(file, number) for number in numbers]

    def _row(self, file: BinaryIO, number: int) -> Piece | Unreadable:
        text = _decoded(self._path, _bytes(file, self._places, number))
        try:
            row = parse_json(text, "")
        except SixfoldError as error:
            where = f"{self._path}:{_line(file, self._places[2 * number])}"
            raise SixfoldError(f"{where}{error.what}", "correct that line") from None
        found = piece_of(row) if isinstance(row, dict) else Unreadable("is not a JSON object", known=False)
        if isinstance(found, Unreadable):
            return unusable(found, f"{self._path}:{_line(file, self._places[2 * number])}")
        return found


class Joined:
    """Several files as one."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def read(self, numbers: Sequence[int]) -> list[Piece | Unreadable]:
        found: dict[int, Piece | Unreadable] = {}
        first = 0
        for part in self._parts:
            inside = [number for number in numbers if first <= number < first + len(part)]
            if inside:
                found |= zip(inside, part.read([number - first for number in inside]), strict=True)
            first += len(part)
        return [found[number] for number in numbers]


def rows_of(path: Path, size: int) -> Rows:
    """The texts of a file of one of the SUFFIXES; plain text in pieces of about `size` bytes."""
    if path.suffix == ".parquet":
        return ParquetRows(path)
    return PlainText(path, size) if path.suffix == ".txt" else JsonRows(path)


def _bytes(file: BinaryIO, places: "array[int]", number: int) -> bytes:
    start, stop = places[2 * number], places[2 * number + 1]
    file.seek(start)
    return file.read(stop - start)


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SixfoldError(f"{path} is not in UTF-8", "convert it") from error


def _line(file: BinaryIO, offset: int) -> int:
    """The number of the line that begins at `offset`, from 1."""
    file.seek(0)
    return 1 + sum(file.read(min(_WINDOW, offset - at)).count(b"\n") for at in range(0, offset, _WINDOW))


@dataclass(frozen=True)
class _Paragraph:
    """size: bytes with one kind of line end. blank: nothing but white space."""

    start: int
    stop: int
    size: int
    blank: bool


def _paragraphs(file: BinaryIO) -> Iterator[_Paragraph]:
    """What blank lines divide; after those at the end of the file, an empty one."""
    start = stop = size = 0
    divided, blank = False, True
    for line in file:
        end = stop + len(line)
        if line.strip(b"\r\n") == b"" and stop > 0:
            if not divided:
                yield _Paragraph(start, stop, size, blank)
            divided, stop = True, end
            continue
        if divided:
            start, size, divided, blank = stop, 0, False, True
        size += len(line.replace(b"\r\n", b"\n"))
        blank = blank and not line.strip()
        stop = end
    yield _Paragraph(stop, stop, 0, True) if divided else _Paragraph(start, stop, size, blank)


def _pieces(paragraphs: Iterator[_Paragraph], size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of paragraphs taken together; each counts one byte more, for the line that divides it."""
    first, last, total, blank = 0, 0, 0, True
    for paragraph in paragraphs:
        if total and total + paragraph.size + 1 > size:
            if not blank:
                yield first, last
            total = 0
        if not total:
            first, blank = paragraph.start, True
        blank = blank and paragraph.blank
        last, total = paragraph.stop, total + paragraph.size + 1
    if not blank:
        yield first, last


def _json_places(path: Path, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(start, stop) of every row."""
    start = file.read(_WINDOW).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    file.seek(0)
    if start == b"[":
        yield from _array_places(path, file)
        return
    at = 0
    for line in file:
        if line.strip():
            yield at, at + len(line)
        at += len(line)


def _array_places(path: Path, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(start, stop) of every element of one JSON array.

    The bytes are read as Latin-1, where a character is a byte: JSON's structure is ASCII, and only it is looked at.
    """
    decoder = json.JSONDecoder()
    text, base, at = file.read(_WINDOW).decode("latin-1"), 0, 0
    at = text.index("[") + 1
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return
        try:
            stop = decoder.raw_decode(text, at)[1]
            whole = stop < len(text)
        except (ValueError, RecursionError) as error:
            if not isinstance(error, json.JSONDecodeError):
                what = f"{path} holds, from byte {base + at} on, numbers or a nesting that no text has"
                raise SixfoldError(what, "correct it there, or fetch it again") from None
            whole = False
        if whole:
            yield base + at, base + stop
            at = stop
            continue
        more = file.read(max(_WINDOW, len(text) - at)).decode("latin-1")  # doubles, so that a long row costs little
        if not more or len(text) - at > _LONGEST:
            raise SixfoldError(
                f"{path} is not a JSON array from byte {base + at} on", "correct it there, or fetch it again"
            )
        text, base, at = text[at:] + more, base + at, 0


def _skip(text: str, at: int) -> int:
    """The next place that is neither white space nor a comma."""
    while text[at : at + 1] and text[at] in " \t\r\n,":
        at += 1
    return at
