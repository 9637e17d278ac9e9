import json
from pathlib import Path
from typing import Any

import pytest
import torch

from calibration.texts.corpus import text_files
from calibration.texts.tokens import token_batches
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError, UsageError
from sixfold.recipes.recipe import Calibration
from sixfold.recipes.text_source import TextSource
from tests.calibration.texts.word_tokenizer import words_tokenizer

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(DEMO)


def test_the_builtin_set_is_drawn_evenly_and_the_same_every_time(tokenizer: Any) -> None:
    profile = Calibration(samples=12, length=64)
    drawn = token_batches(profile, tokenizer)
    assert drawn.ids.shape == (12, 64)
    assert drawn.ids.dtype is torch.int64
    assert {d["samples"] for d in drawn.record["domains"].values()} == {2}
    assert set(drawn.record["domains"]) == {"code", "english", "languages", "maths", "norwegian", "tools"}
    assert sum(f["tokens"] for f in drawn.record["files"].values()) == 12 * 64
    assert all(f["license"] for f in drawn.record["files"].values())
    again = token_batches(profile, tokenizer)
    assert torch.equal(drawn.ids, again.ids)
    assert drawn.record == again.record
    other = token_batches(profile.model_copy(update={"seed": 1}), tokenizer)
    assert other.record["ids_sha256"] != drawn.record["ids_sha256"]


def test_a_domain_that_runs_out_is_recorded_and_all_of_them_are_an_error(tmp_path: Path, tokenizer: Any) -> None:
    short, long = tmp_path / "short.txt", tmp_path / "long.txt"
    short.write_text("Two words. " * 20)
    long.write_text("\n\n".join(f"Paragraph {i} says something of its own." for i in range(400)))
    profile = Calibration(texts=(str(short), str(long)), samples=20, length=32)
    record = token_batches(profile, tokenizer).record
    assert record["domains"][str(short)]["exhausted"]
    assert not record["domains"][str(long)]["exhausted"]
    assert sum(d["samples"] for d in record["domains"].values()) == 20
    with pytest.raises(SixfoldError, match=r"hold (\d+) of the 9999 samples of 32 .* calibration.samples=\1\."):
        token_batches(profile.model_copy(update={"samples": 9999}), tokenizer)


def test_a_text_that_fills_no_window_is_an_error_and_not_left_out(tmp_path: Path, tokenizer: Any) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Two words.")
    profile = Calibration(texts=("builtin", str(own)), samples=20, length=512)
    with pytest.raises(
        SixfoldError, match=r"own.txt fills no window of 512 tokens; name a longer text, or ask for shorter"
    ):
        token_batches(profile, tokenizer)


@pytest.mark.parametrize(
    ("length", "remedy"),
    [
        (512, "name longer texts, or ask for shorter windows, such as --set calibration.length=128."),
        (128, "name longer texts, or ask for shorter windows, such as --set calibration.length=64."),
        (64, "name longer texts."),
    ],
)
def test_no_window_longer_than_those_that_were_not_filled_is_recommended(
    tmp_path: Path, tokenizer: Any, length: int, remedy: str
) -> None:
    own = tmp_path / "own.txt"
    own.write_text("Two words.")
    with pytest.raises(SixfoldError) as error:
        token_batches(Calibration(texts=(str(own),), samples=20, length=length), tokenizer)
    assert str(error.value) == f"the calibration texts ({own}) fill no window of {length} tokens; {remedy}"


def test_every_window_starts_with_bos_where_the_tokenizer_puts_one(tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"w{i % 200}" for i in range(1000)))
    profile = Calibration(texts=(str(text),), samples=3, length=16)
    with_bos, without = (token_batches(profile, words_tokenizer(bos)) for bos in (True, False))
    assert with_bos.ids[:, 0].tolist() == [1, 1, 1]
    assert with_bos.record["bos"] == 1
    assert without.record["bos"] is None
    assert torch.equal(without.ids.flatten()[:15], with_bos.ids[0, 1:])
    assert not (without.ids == 1).any()


def test_long_documents_do_not_fill_all_windows(tmp_path: Path) -> None:
    rows = [{"text": " ".join([f"w{i}"] * (500 if i == 0 else 16))} for i in range(8)]
    text = tmp_path / "rows.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)))
    ids = token_batches(Calibration(texts=(str(text),), samples=8, length=16), words_tokenizer(bos=False)).ids
    assert sorted(ids[:, 0].tolist()) == [2 + i for i in range(8)]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "rows.jsonl:2 is not valid JSON"), ('{"a": 1}', 'rows.jsonl:2 has neither "messages" nor .*its fields: a')],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, tokenizer: Any, line: str, message: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(SixfoldError, match=message):
        token_batches(Calibration(texts=(str(rows),), samples=1, length=8), tokenizer)


def test_bad_texts_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "empty").mkdir()
    for text, message in (
        ("nowhere.txt", "there is no calibration text 'nowhere.txt'"),
        (str(tmp_path / "a.pdf"), "neither .txt nor .jsonl"),
        (str(tmp_path / "empty"), "holds no .txt, .jsonl or .parquet file"),
    ):
        with pytest.raises(UsageError, match=message):
            text_files((TextSource(path=text),))
