"""The held-out texts as token ids: every text once, in windows that anyone can cut again."""

import json
from pathlib import Path

import pytest
import torch

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.texts.held_out_text import CHARACTERS, TEXTS, TOKENS, WINDOW, held_out
from tests.calibration.texts.word_tokenizer import words_tokenizer
from tests.exporters.exported import DEMO


def test_the_texts_that_ship() -> None:
    tokenizer = load_tokenizer(DEMO)
    found = held_out(tokenizer)
    assert set(found.domains) == {path.name for path in TEXTS.iterdir()}
    expected = {}
    for path in TEXTS.glob("*/*.txt"):
        ids = tokenizer.encode(path.read_text()[:CHARACTERS], add_special_tokens=False)[:TOKENS]
        expected[path.name] = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
    cut = [ids.tolist() for ids in found.ids]
    for name, windows in expected.items():
        assert all(window in cut for window in windows if len(window) > 1), name
    assert found.tokens == sum(map(len, cut))
    assert [len(ids) for ids in found.ids] == sorted(map(len, cut), reverse=True)


def test_windows_of_a_folder_of_ones_own(tmp_path: Path) -> None:
    """A file of 513 words leaves one word over, which predicts nothing; no window begins with BOS."""
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "a.txt").write_text(" ".join(["w1"] * 513))
    (tmp_path / "prose.txt").write_text("w2 w3")
    found = held_out(words_tokenizer(bos=True), tmp_path)
    assert [(domain, len(ids)) for domain, ids in zip(found.domains, found.ids, strict=True)] == [
        ("sums", 512),
        ("prose.txt", 2),
    ]
    assert torch.equal(found.by_domain["prose.txt"][0], torch.tensor([4, 5]))
    assert list(found.by_domain) == ["prose.txt", "sums"]


def test_of_a_long_file_as_many_tokens_as_asked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w1 " * 20_000)
    assert [held_out(words_tokenizer(bos=False), tmp_path, tokens).tokens for tokens in (1024, 2048)] == [1024, 2048]


def test_a_conversation_keeps_its_calls(tmp_path: Path) -> None:
    """The bundled model's template knows no tools, so they are written into the messages."""
    function = {"name": "weather", "arguments": {"town": "Bergen"}}
    question = {"role": "user", "content": "Is it cold in Bergen?"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": [question, call]}) + "\n")
    tokenizer = load_tokenizer(DEMO)
    text = tokenizer.decode(held_out(tokenizer, tmp_path).ids[0])
    assert "Is it cold in Bergen?" in text
    assert json.dumps(function) in text


def test_texts_of_which_the_tokenizer_makes_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/empty.txt").write_text("")
    with pytest.raises(SixfoldError, match="makes no tokens of the held-out texts in"):
        held_out(load_tokenizer(DEMO), tmp_path)


def test_the_digest_follows_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w1 w2 w3")
    before = held_out(words_tokenizer(bos=False), tmp_path).digest
    assert held_out(words_tokenizer(bos=False), tmp_path).digest == before
    (tmp_path / "a.txt").write_text("w1 w2 w4")
    assert held_out(words_tokenizer(bos=False), tmp_path).digest != before
