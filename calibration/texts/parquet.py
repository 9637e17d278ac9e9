"""Rows of a .parquet file, through pyarrow: only the row groups and columns that are wanted, a few rows at a time."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from calibration.texts.conversations import COLUMNS, Piece, Unreadable, piece_of, unusable
from sixfold.errors import SixfoldError

_BATCH = 16
"""Rows decoded together: rows of long conversations are megabytes."""


class ParquetRows:
    def __init__(self, path: Path) -> None:
        self._path = path
        with _opened(path) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._columns = [name for name in file.schema_arrow.names if name in COLUMNS]
            self._names = sorted(file.schema_arrow.names)
        if min(groups, default=0) < 0:
            raise _damaged(path, ValueError("a row group of less than no rows"))
        self._starts = [0, *accumulate(groups)]

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, numbers: Sequence[int]) -> list[Piece | Unreadable]:
        empty = piece_of(dict.fromkeys(self._names))
        if isinstance(empty, Unreadable) and not empty.known:
            unusable(empty, str(self._path))
        by_group: dict[int, list[int]] = {}
        for number in sorted(set(numbers)):
            by_group.setdefault(bisect_right(self._starts, number) - 1, []).append(number)
        found: dict[int, Piece | Unreadable] = {}
        with _opened(self._path) as file:
            for group, wanted in by_group.items():
                found |= self._in_group(file, group, wanted)
        if len(found) < len(set(numbers)):
            raise _damaged(self._path, ValueError("it has fewer rows than it states"))
        return [found[number] for number in numbers]

    def _in_group(self, file: Any, group: int, wanted: list[int]) -> dict[int, Piece | Unreadable]:
        found: dict[int, Piece | Unreadable] = {}
        first = self._starts[group]
        for batch in self._batches(file, group):
            for number in wanted:
                if first <= number < first + len(batch):
                    row = self._row(batch, number - first)
                    piece = piece_of(row)
                    where = f"{self._path}, row {number + 1},"
                    found[number] = unusable(piece, where) if isinstance(piece, Unreadable) else piece
            first += len(batch)
            if first > wanted[-1]:
                break
        return found

    def _row(self, batch: Any, number: int) -> dict[str, Any]:
        try:
            (row,) = batch.slice(number, 1).to_pylist()
        except (ValueError, OverflowError) as error:  # a text that is no UTF-8, a date that is none
            raise _damaged(self._path, error) from None
        found: dict[str, Any] = row
        return found

    def _batches(self, file: Any, group: int) -> Iterator[Any]:
        from pyarrow import ArrowException

        batches = file.iter_batches(_BATCH, row_groups=[group], columns=self._columns, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (ArrowException, OSError, ValueError) as error:
                raise _damaged(self._path, error) from None
            if batch is None:
                return
            yield batch


def _damaged(path: Path, error: Exception) -> SixfoldError:
    return SixfoldError(f"{path} is not a readable Parquet file ({error})", "fetch or write it again")


def _opened(path: Path) -> Any:
    """Raises SixfoldError where pyarrow is missing or the file is damaged."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SixfoldError(f"{path} can only be read with pyarrow", "install it: pip install pyarrow") from error
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
