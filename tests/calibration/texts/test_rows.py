"""Rows come back as they were written, whatever the file, and the file is never held in memory."""

import json
import re
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from calibration.texts import rows as rows_module
from calibration.texts.conversations import Unreadable
from calibration.texts.rows import Joined, JsonRows, PlainText, Rows, rows_of
from sixfold.errors import SixfoldError
from sixfold.texts.chat_template import Chat


def everything(rows: Rows) -> list[Any]:
    return rows.read(range(len(rows)))


def literally(text: str, size: int) -> list[str]:
    """Paragraphs, each closed by one line more, taken together up to `size` bytes; white space alone is no piece."""
    pieces, piece = [], ""
    for paragraph in re.split(r"(?<=\n)\n+", text):
        if piece and len((piece + paragraph).encode()) + 1 > size:
            pieces.append(piece)
            piece = ""
        piece += paragraph + "\n"
    return [piece for piece in (*pieces, piece) if piece.strip()]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("seed", range(40))
def test_plain_text_is_cut_at_blank_lines(tmp_path: Path, seed: int, line_end: str) -> None:
    random = Random(seed)
    lines = [random.choice(["", "", "a", "bb b", "høst", "   "]) for _ in range(random.randrange(1, 60))]
    text = "\n".join(["x", *lines]) + random.choice(["", "\n", "\n\n\n"])
    path = tmp_path / "text.txt"
    path.write_bytes(text.replace("\n", line_end).encode())
    size = random.choice([1, 8, 30, 10_000])
    assert everything(PlainText(path, size)) == literally(text, size)


ROWS = [{"text": f"række {i} " + "x" * (i % 7) * 100} for i in range(50)]


@pytest.mark.parametrize("window", [16, 100, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_lines_and_an_array_of_json_are_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, indent: int | None
) -> None:
    monkeypatch.setattr(rows_module, "_WINDOW", window)
    lines, array = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS))
    array.write_text(json.dumps(ROWS, ensure_ascii=False, indent=indent))
    assert everything(JsonRows(lines)) == everything(JsonRows(array)) == [row["text"] for row in ROWS]
    assert JsonRows(array).read([3, 1]) == [ROWS[3]["text"], ROWS[1]["text"]]


@pytest.mark.parametrize("text", ['[{"text": "a"}, {"text": ', '[{"text": "a"} {"te', "[", '[{"text": "a"}, nonsense]'])
def test_a_json_array_that_breaks_off_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(SixfoldError, match=r"rows\.json is not a JSON array from byte"):
        JsonRows(path)


def test_parquet_rows_by_number_across_row_groups(tmp_path: Path) -> None:
    messages = [[{"role": "user", "content": f"q{i}", "tool_calls": None}] for i in range(23)]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"messages": messages, "extra": list(range(23))}), path, row_group_size=5)
    found = rows_of(path, 0)
    assert len(found) == 23
    for numbers in ([22, 0, 4, 5, 4], list(range(23)), [13]):
        read = found.read(numbers)
        assert all(isinstance(piece, Chat) for piece in read)
        assert [piece.messages[0]["content"] for piece in read if isinstance(piece, Chat)] == [f"q{i}" for i in numbers]


def test_a_parquet_file_of_unknown_columns_and_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"url": ["x"], "score": [1.0]}), path)
    with pytest.raises(
        SixfoldError, match=r"rows.parquet has neither .* \(its fields: score, url\); rename its fields"
    ):
        rows_of(path, 0).read([0])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SixfoldError, match=r"rows.parquet is not a readable Parquet file"):
        rows_of(path, 0)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SixfoldError, match=r"can only be read with pyarrow; install it: pip install pyarrow\."):
        rows_of(tmp_path / "rows.parquet", 0)


def test_a_row_that_cannot_be_used_names_its_place(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text('{"text": "a"}\n\n{"text": null}\n')
    parquet.write_table(pa.table({"text": ["a", None]}), table)
    for path, place in ((lines, f"{lines}:3"), (table, f"{table}, row 2,")):
        assert everything(rows_of(path, 0)) == ["a", Unreadable(f"{place} holds no text")]


def test_several_files_are_numbered_through(tmp_path: Path) -> None:
    parts = []
    for name, texts in (("a", "uv"), ("b", ""), ("c", "xyz")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        parts.append(JsonRows(path))
    assert everything(Joined(parts)) == list("uvxyz")
    assert Joined(parts).read([4, 0]) == ["z", "u"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt"])
def test_memory_holds_places_and_not_the_file(tmp_path: Path, suffix: str) -> None:
    row = json.dumps({"text": "word " * 2000})
    path = tmp_path / f"rows{suffix}"
    start, divider, stop = ("[", ",", "]") if suffix == ".json" else ("", "\n\n", "\n")
    with path.open("w") as file:
        file.write(start + row)
        file.writelines(divider + row for _ in range(5999))
        file.write(stop)
    assert path.stat().st_size > 60_000_000
    tracemalloc.start()
    rows = rows_of(path, 8000)
    assert len(rows) == 6000
    assert len(rows.read(range(0, 6000, 100))) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9_000_000


def test_memory_of_one_large_parquet_row_group_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    random = Random(0)
    texts = [random.randbytes(5000).hex() for _ in range(6000)]
    parquet.write_table(pa.table({"text": texts, "unused": texts}), path, use_dictionary=False)
    assert parquet.ParquetFile(path).num_row_groups == 1
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        rows = rows_of(path, 0)
        for number in (0, 3000, 5999):
            assert rows.read([number]) == [texts[number]]
    finally:
        pa.set_memory_pool(pa.system_memory_pool())
    assert 0 < pool.max_memory() < 15_000_000  # of 60 MB of text
