"""GSM8K: 1,319 word problems of primary school, each with one number as its answer.

Cobbe et al., 2021, "Training Verifiers to Solve Math Word Problems"; data/gsm8k-test.jsonl.gz is the test split of
openai/grade-school-math, MIT (data/LICENSE-GSM8K), with the reference solutions cut to their numbers.
"""

import gzip
import json
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

from evaluation.client.asking import Answer, Question
from evaluation.sandbox.judge import Verdict

NAME = "GSM8K"
TASK = "gsm8k"
_FILE = Path(__file__).parents[1] / "data" / "gsm8k-test.jsonl.gz"

ASKED = "Solve this problem step by step. End with a line of the form `#### number`."
RULE = "the number behind the last ####, else the last number of the answer"
METHOD = f'asked in a conversation without examples: "{ASKED}"; extraction: {RULE}'
_NUMBER = re.compile(r"(?:(?<!\d)-)?\$?\d[\d,]*(?:\.\d+)?|(?:(?<!\d)-)?\$?\.\d+")


@dataclass(frozen=True)
class Problem:
    task_id: str
    question: str
    answer: str


@cache
def problems() -> tuple[Problem, ...]:
    with gzip.open(_FILE, "rt", encoding="utf-8") as file:
        return tuple(Problem(f"GSM8K/{n}", **json.loads(line)) for n, line in enumerate(file))


def questions(sample: int) -> list[Question]:
    return [Question(p.task_id, sample, ({"role": "user", "content": f"{ASKED}\n\n{p.question}"},)) for p in problems()]


def judged(answer: Answer) -> Verdict:
    found, expected = number_of(answer.text), number_of(_by_id()[answer.task_id].answer)
    if found is None:
        return Verdict(False, "no number")
    return Verdict(True) if found == expected else Verdict(False, "another number")


def number_of(answer: str) -> Decimal | None:
    """By RULE; thousands may have commas, and a dollar sign may stand before it."""
    _, marked, behind = answer.rpartition("####")
    found = (marked and _NUMBER.findall(behind)[:1]) or _NUMBER.findall(answer)[-1:]
    try:
        return Decimal(found[0].replace(",", "").replace("$", "")) if found else None
    except InvalidOperation:
        return None


@cache
def _by_id() -> dict[str, Problem]:
    return {problem.task_id: problem for problem in problems()}
