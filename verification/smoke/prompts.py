"""The prompts, what their answers must do, and what is wrong with an answer."""

import ast
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_LOOP = 4
"""A loop: the last tokens are one piece of at most so many tokens, over and over for half of the answer."""
_NORWEGIAN = frozenset("og i er det som en et på av til med for den at å de har ikke var".split())


@dataclass(frozen=True)
class Prompt:
    """rule: what the answer must do, for people. holds: whether it does, of the prompt and the answer."""

    name: str
    text: str
    rule: str
    holds: Callable[[str, str], bool]


@dataclass(frozen=True)
class Answer:
    text: str
    finite: bool
    loops: bool


def _is_norwegian(_: str, answer: str) -> bool:
    return sum(word in _NORWEGIAN for word in re.findall(r"\w+", answer.lower())) >= 3


def _is_sum(_: str, answer: str) -> bool:
    found = re.search(r"\d+", answer)
    return found is not None and found[0] == "19"


def _is_python(prompt: str, answer: str) -> bool:
    """Up to some line end in the answer, it parses; what is behind may be cut off."""
    lines = answer.splitlines()
    for number in range(len(lines), 0, -1):
        with suppress(SyntaxError, ValueError):
            ast.parse(prompt + "\n".join(lines[:number]))
            return bool("".join(lines[:number]).strip())
    return False


def _explains(_: str, answer: str) -> bool:
    words = re.findall(r"[^\W\d_]{2,}", answer)
    return len(words) >= 8 and len(set(words)) >= 6


def _is_json(prompt: str, answer: str) -> bool:
    with suppress(json.JSONDecodeError):
        json.JSONDecoder().raw_decode(prompt + answer)
        return True
    return False


PROMPTS = (
    Prompt("norwegian", "Alle mennesker er født frie og", "at least three common Norwegian words", _is_norwegian),
    Prompt("arithmetic", "Question: What is 12 + 7?\nAnswer: 12 + 7 =", "the first number is 19", _is_sum),
    Prompt("python", "def add(a, b):\n", "what it writes parses as Python", _is_python),
    Prompt("explanation", "A dictionary in Python is", "eight words, six of them different", _explains),
    Prompt("json", '{"name": "Ada", "born": 1815, "languages": ["English"', "it closes the JSON object", _is_json),
)


def problem_of(prompt: Prompt, expected: Answer, answer: Answer) -> str:
    if not answer.finite:
        return "logits are not all finite"
    if expected.text.strip() and not answer.text.strip():
        return "the answer is empty, and the source's is not"
    if answer.loops and not expected.loops:
        return "the answer runs in a loop, and the source's does not"
    if prompt.holds(prompt.text, expected.text) and not prompt.holds(prompt.text, answer.text):
        return f"it breaks its rule ({prompt.rule}), which the source keeps"
    return ""


def loops(ids: list[int]) -> bool:
    half = len(ids) // 2
    end = ids[len(ids) - half :]
    return half > _LOOP and any(end[period:] == end[:-period] for period in range(1, _LOOP + 1))
