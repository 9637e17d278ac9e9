"""Which windows are drawn: as a literal reading of the definition says, by weight, and without reading more."""

import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from calibration.texts.conversations import piece_of
from calibration.texts.corpus import TEXTS
from calibration.texts.tokens import token_batches
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError, UsageError
from sixfold.recipes.recipe import Calibration
from sixfold.texts.chat_template import Chat, render
from tests.calibration.texts.word_tokenizer import words_tokenizer

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


def literal_pieces(path: Path, size: int) -> list[str | Chat]:
    text = path.read_text()
    if path.suffix == ".jsonl":
        found = [piece_of(json.loads(line)) for line in text.split("\n") if line]
        return [piece for piece in found if isinstance(piece, str | Chat)]
    pieces, piece = [], ""
    for paragraph in re.split(r"(?<=\n)\n+", text):
        if piece and len(f"{piece}{paragraph}\n".encode()) > size:
            pieces.append(piece)
            piece = ""
        piece += paragraph + "\n"
    return [p for p in (*pieces, piece) if p.strip()]


def literal_windows(folder: Path, domain: str, profile: Calibration, tokenizer: Any) -> list[list[int]]:
    """Everything at once: all files read, all pieces shuffled, all of them tokenized."""
    found = [
        piece for path in sorted((folder / domain).rglob("*.*")) for piece in literal_pieces(path, 4 * profile.length)
    ]
    Random(f"{profile.seed} {domain}").shuffle(found)
    texts = [piece if isinstance(piece, str) else render(tokenizer, piece)[0] for piece in found]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    stream = [i for one in ids for i in one[: profile.length]] + [i for one in ids for i in one[profile.length :]]
    return [stream[i : i + profile.length] for i in range(0, len(stream) - profile.length + 1, profile.length)]


@pytest.mark.parametrize("profile", [Calibration(), Calibration(samples=100, length=96, seed=5)])
def test_the_builtin_set_is_drawn_as_a_literal_reading_draws_it(profile: Calibration) -> None:
    tokenizer = load_tokenizer(DEMO)
    folder = TEXTS / "calibration"
    domains = [literal_windows(folder, d.name, profile, tokenizer) for d in sorted(folder.iterdir())]
    in_turn = [domain[number] for number in range(profile.samples) for domain in domains if number < len(domain)]
    assert token_batches(profile, tokenizer).ids.tolist() == in_turn[: profile.samples]


def write_rows(path: Path, words: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": word} for word in words]
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"text": words}), path, row_group_size=7)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    return path


def words(start: int, stop: int) -> list[str]:
    return [f"w{i}" for i in range(start, stop)]


def test_neither_where_texts_lie_nor_their_format_changes_what_is_drawn(tmp_path: Path) -> None:
    drawn = []
    for path in ("here/mine/rows.jsonl", "there/beyond/mine/rows.parquet"):
        folder = write_rows(tmp_path / path, words(0, 90)).parent
        for named in (folder, tmp_path / path):
            profile = Calibration(texts=(str(named),), samples=8, length=10)
            drawn.append(token_batches(profile, words_tokenizer(bos=False)).ids.tolist())
    of_folder, of_file, *elsewhere = drawn
    assert elsewhere == [of_folder, of_file]
    assert len({word for window in of_folder for word in window}) == 80


def test_samples_are_shared_by_weight(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name, start in (("a", 0), ("b", 40)):
        write_rows(folder / name / "rows.jsonl", words(start, start + 40))
    other = write_rows(tmp_path / "other.json", words(80, 160))
    texts = ({"path": str(folder), "weight": 1}, {"path": str(other), "weight": 3})
    record = token_batches(Calibration(texts=texts, samples=16, length=4), words_tokenizer(bos=False)).record
    assert {name: domain["samples"] for name, domain in record["domains"].items()} == {"a": 2, "b": 2, str(other): 12}
    assert {name: text["rows"] for name, text in record["files"].items()} == {
        f"{folder}/a/rows.jsonl": 8,
        f"{folder}/b/rows.jsonl": 8,
        str(other): 48,
    }


def test_every_row_has_the_same_chance(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", words(0, 20))
    seen: Counter[int] = Counter()
    for seed in range(400):
        profile = Calibration(texts=(str(path),), samples=1, length=5, seed=seed)
        seen.update(token_batches(profile, words_tokenizer(bos=False)).ids.flatten().tolist())
    # 400 draws of 5 out of 20: a binomial of mean 100 and deviation 8.7.
    assert len(seen) == 20
    assert all(60 < count < 140 for count in seen.values())


class Counting:
    """A tokenizer that counts what it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.characters, self.bos_token_id = inner, 0, None

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self.inner(text, **options)

    def decode(self, ids: list[int]) -> str:
        return str(self.inner.decode(ids))


def test_no_more_is_tokenized_than_the_windows_need(tmp_path: Path) -> None:
    """Of a hundred long texts, three windows take the beginnings of three."""
    path = write_rows(tmp_path / "rows.parquet", [f"w{i} " * 20_000 for i in range(100)])
    tokenizer = Counting(words_tokenizer(bos=False))
    token_batches(Calibration(texts=(str(path),), samples=3, length=50), tokenizer)
    assert tokenizer.characters < 3 * 50 * 20


def test_long_texts_go_on_where_their_first_windows_ended(tmp_path: Path) -> None:
    """What the second round takes is what the first one left, though the first one did not tokenize it."""
    path = write_rows(tmp_path / "rows.jsonl", [" ".join(words(0, 150)), "w199"])
    ids = token_batches(Calibration(texts=(str(path),), samples=15, length=10), words_tokenizer(bos=False)).ids
    assert sorted(ids.flatten().tolist()) == sorted(2 + i for i in [*range(149), 199])


def test_the_same_text_twice_is_refused(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", words(0, 9)))
    with pytest.raises(UsageError, match=r"rows.jsonl is named twice; name it once, with a larger weight"):
        token_batches(Calibration(texts=(path, path), samples=1, length=4), words_tokenizer(bos=False))


def test_a_row_of_ones_own_that_cannot_be_used_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "w1"}\n{"messages": []}\n')
    with pytest.raises(SixfoldError, match=r"rows.jsonl:2 holds no text; correct it or take it out"):
        token_batches(Calibration(texts=(str(path),), samples=1, length=2), words_tokenizer(bos=False))
