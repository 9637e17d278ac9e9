"""Answers that end: whether a model, sampled, comes to an end by itself, or runs in a loop until it is cut off.

Divergence over held-out text is measured on text that somebody wrote; what a model does with its own is not in it.
The prompts are the first turns of MT-Bench's 80 questions (lm-sys/FastChat, Apache-2.0; data/LICENSE-MT-Bench).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.client.asking import Answer, Question

NAME = "answers that end"
TASK = "answers"
TEMPERATURE = 0.7
_FILE = Path(__file__).parents[1] / "data" / "mt_bench.jsonl"

REPEATS = 4
LEAST = 200
"""Characters."""
LOOP_RULE = (
    f"an answer loops where it ends in one piece of text that stands there {REPEATS} times or more in a row, over at"
    f" least {LEAST} characters"
)


@dataclass(frozen=True)
class Endings:
    """ended: by themselves. looping: by LOOP_RULE, thinking included. lengths: in tokens, where they were counted."""

    answers: int
    ended: int
    looping: int
    lengths: tuple[int, ...]


def questions(sample: int) -> list[Question]:
    return [Question(task_id, sample, ({"role": "user", "content": prompt},)) for task_id, prompt in _prompts()]


def endings(answers: Sequence[Answer]) -> Endings:
    return Endings(
        answers=len(answers),
        ended=sum(not answer.truncated for answer in answers),
        looping=sum(loops(answer.text or answer.thinking) for answer in answers),
        lengths=tuple(a.completion_tokens for a in answers if a.completion_tokens is not None),
    )


def loops(text: str) -> bool:
    """Whether LOOP_RULE holds, white space at the end left out.

    The last n characters have the period p where they equal the n characters that stand p before them: found by the
    border function of Knuth, Morris and Pratt over the reversed text, in linear time.
    """
    turned = text.rstrip()[::-1]
    border = [0] * (len(turned) + 1)
    matched = 0
    for at in range(1, len(turned)):
        while matched and turned[at] != turned[matched]:
            matched = border[matched]
        matched += turned[at] == turned[matched]
        border[at + 1] = matched
        length = at + 1
        if length >= LEAST and REPEATS * (length - matched) <= length:
            return True
    return False


@cache
def _prompts() -> tuple[tuple[str, str], ...]:
    rows = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    return tuple((row["task_id"], row["prompt"]) for row in rows)
