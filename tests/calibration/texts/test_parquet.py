"""Parquet files whose metadata say of their rows what their pages do not hold."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from calibration.texts.parquet import ParquetRows
from sixfold.errors import SixfoldError


def test_fewer_rows_than_stated_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pa.table({"text": ["one", "two", "three"]}), tmp_path / "a.parquet")
    rows = ParquetRows(tmp_path / "a.parquet")
    assert len(rows.read([0, 2])) == 2
    monkeypatch.setattr(ParquetRows, "_batches", lambda self, file, group: iter([pa.table({"text": ["one"]})]))
    with pytest.raises(SixfoldError, match=r"a\.parquet is not a readable Parquet file \(it has fewer rows"):
        rows.read([0, 2])
