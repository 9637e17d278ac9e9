"""Calibration texts that hold pieces of an evaluation set are found, and only those."""

import json
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from calibration.texts import evaluation_sets
from calibration.texts.corpus import TEXTS
from calibration.texts.evaluation_sets import FILE, Overlap, fingerprints
from calibration.texts.text_notes import text_notes
from calibration.texts.tokens import token_batches
from cli.main import run
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.recipes.recipe import Calibration

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"

# HumanEval/0 (openai/human-eval, MIT), as a text book may quote it.
QUOTED = """Consider this exercise.

def has_close_elements(numbers: List[float], threshold: float) -> bool:
    \"\"\" Check if in given list of numbers, are any two numbers closer to each other than
    given threshold.
    >>> has_close_elements([1.0, 2.0, 3.0], 0.5)
"""


def test_a_fingerprint_is_that_of_thirteen_words_in_lower_case() -> None:
    text = "One two, three FOUR five six seven eight nine ten eleven twelve thirteen. Fourteen!"
    words = text.lower().replace(",", "").replace(".", "").replace("!", "").split()
    expected = {
        int.from_bytes(blake2b(" ".join(words[i : i + 13]).encode(), digest_size=6).digest(), "big") for i in (0, 1)
    }
    assert fingerprints(text) == expected
    assert fingerprints("too short") == set()


def test_a_quoted_problem_is_found_in_what_was_drawn(tmp_path: Path) -> None:
    quoting, clean = tmp_path / "quoting.txt", tmp_path / "clean.txt"
    quoting.write_text(QUOTED)
    clean.write_text("Nobody asks this question in an evaluation, as far as anybody here can tell. " * 20)
    texts = (str(quoting), str(clean))
    record = token_batches(Calibration(texts=texts, samples=4, length=96), load_tokenizer(DEMO)).record
    (found,) = record["files"][str(quoting)]["overlap"].items()
    assert found[0] == "HumanEval"
    assert 5 < found[1] <= len(fingerprints(QUOTED))
    assert record["files"][str(clean)]["overlap"] == {}
    (note,) = [note for note in text_notes(record) if "HumanEval" in note]
    assert f"{quoting} shares {found[1]} sequences of 13 words with the evaluation set HumanEval" in note


def test_the_texts_that_ship_share_nothing_with_the_sets() -> None:
    overlap = Overlap()
    for path in TEXTS.rglob("*"):
        if path.suffix in (".txt", ".jsonl"):
            overlap.add(path.name, path.read_text())
            assert overlap.of(path.name) == {}, path


def test_the_file_is_small_and_covers_every_set() -> None:
    assert FILE.stat().st_size < 500_000
    with np.load(FILE) as sets:
        assert sets.files == ["HumanEval", "GSM8K", "MT-Bench"]
        for name in sets.files:
            assert sets[name].dtype == np.uint64
            assert (np.diff(sets[name].astype(np.int64)) > 0).all()


def test_the_script_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "humaneval": {"prompt": " ".join(map(str, range(20))), "canonical_solution": " 20 21"},
        "gsm8k": {"question": " ".join(map(str, range(30, 45))), "answer": "no"},
        "mt-bench": {"turns": [" ".join(map(str, range(50, 60))), " ".join(map(str, range(60, 70)))]},
    }
    arguments = []
    for name, row in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(row))
        arguments += [f"--{name}", str(path)]
    monkeypatch.setattr(sys, "argv", ["evaluation_sets", *arguments])
    monkeypatch.setattr(evaluation_sets, "FILE", tmp_path / "sets.npz")
    evaluation_sets._main()
    with np.load(tmp_path / "sets.npz") as sets:
        assert {name: len(sets[name]) for name in sets.files} == {"HumanEval": 10, "GSM8K": 3, "MT-Bench": 8}


def test_notes_say_what_else_happened_to_the_texts() -> None:
    text = {"tokens": 9, "rows": 3, "unusable_rows": 2, "overlap": {}}
    record = {
        "files": {"lab/set:train": text},
        "domains": {"lab/set:train": {"samples": 7, "exhausted": True}},
        "conversations": {"chat template": 3, "plain, role by role": 4},
    }
    assert text_notes(record) == (
        "2 rows of the calibration text lab/set:train could not be used",
        "the calibration text lab/set:train ran out after 7 samples; other texts took its share",
        "the chat template refuses 4 of the conversations, which were written plain, role by role",
    )


def test_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quoting = tmp_path / "quoting.txt"
    quoting.write_text(QUOTED)
    settings = [f"calibration.texts=[builtin, {quoting}]", "calibration.samples=7", "calibration.length=64"]
    arguments = ["calibrate", str(DEMO), "nvfp4-gb10", "--out", str(tmp_path / "out")]
    assert run([*arguments, *(word for setting in settings for word in ("--set", setting))]) == 0
    assert f"Note: the calibration text {quoting} shares " in capsys.readouterr().out
