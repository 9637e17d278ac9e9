"""Fingerprints of evaluation sets, and whether calibration texts hold pieces of them.

A fingerprint is the 48-bit BLAKE2b hash of thirteen consecutive words in lower case, the length that contamination
checks since GPT-3 compare (arXiv 2005.14165, appendix C). evaluation_sets.npz holds, for each set, those of all its
problems as sorted uint64. It is made by

    python -m calibration.texts.evaluation_sets --humaneval HumanEval.jsonl --gsm8k test.jsonl --mt-bench question.jsonl

from openai/human-eval (MIT; prompts with their solutions), the test split of openai/grade-school-math (MIT; questions)
and lm-sys/FastChat's MT-Bench (Apache-2.0; both turns).
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "evaluation_sets.npz"
WORDS = 13


def fingerprints(text: str) -> set[int]:
    """Of every thirteen consecutive words."""
    words = re.findall(r"\w+", text.lower())
    grams = (" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1))
    return {int.from_bytes(blake2b(gram.encode(), digest_size=6).digest(), "big") for gram in grams}


class Overlap:
    """Fingerprints that texts share with evaluation sets, gathered piece by piece."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, set[int]]] = {}

    def add(self, name: str, text: str) -> None:
        for found in fingerprints(text) & _known().keys():
            for evaluation in _known()[found]:
                self._found.setdefault(name, {}).setdefault(evaluation, set()).add(found)

    def of(self, name: str) -> dict[str, int]:
        """Evaluation set -> different sequences of thirteen words that the text shares with it; sets without are left
        out."""
        return {evaluation: len(found) for evaluation, found in sorted(self._found.get(name, {}).items())}


@cache
def _known() -> dict[int, list[str]]:
    known: dict[int, list[str]] = {}
    with np.load(FILE) as sets:
        for name in sets.files:
            for fingerprint in sets[name].tolist():
                known.setdefault(fingerprint, []).append(name)
    return known


def _write(sets: dict[str, Iterable[str]]) -> None:
    found = {name: sorted(set[int]().union(*map(fingerprints, texts))) for name, texts in sets.items()}
    arrays: Any = {name: np.array(numbers, dtype=np.uint64) for name, numbers in found.items()}
    np.savez_compressed(FILE, **arrays)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _main() -> None:
    parser = argparse.ArgumentParser(description="Make the fingerprints of the evaluation sets.")
    for name in ("humaneval", "gsm8k", "mt-bench"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = parser.parse_args()
    _write(
        {
            "HumanEval": (row["prompt"] + row["canonical_solution"] for row in _rows(paths.humaneval)),
            "GSM8K": (row["question"] for row in _rows(paths.gsm8k)),
            "MT-Bench": ("\n".join(row["turns"]) for row in _rows(paths.mt_bench)),
        }
    )


if __name__ == "__main__":
    _main()
