"""HumanEval: 164 functions to be written, each with tests that have never seen the answer.

Chen et al., 2021, "Evaluating Large Language Models Trained on Code"; data/HumanEval.jsonl.gz is OpenAI's file, MIT
(data/LICENSE-HumanEval). Asked in two ways: as a conversation, and as a text to be gone on with.
"""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.benchmarks.extraction import RULE, completion_of, program_of
from evaluation.client.asking import Answer, Question
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.judge import Verdict, judge

NAME = "HumanEval"
CHAT, RAW = "humaneval", "humaneval-raw"
_FILE = Path(__file__).parents[1] / "data" / "HumanEval.jsonl.gz"

ASKED = "Complete this Python function. Answer with the whole function, its imports included, in one ```python block."
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What ends a completion: the paper's list."""

CHAT_METHOD = f'asked in a conversation: "{ASKED}"; extraction: {RULE}'
RAW_METHOD = (
    "the problem's text, without the line end behind its docstring, is gone on with, up to a line that begins with"
    " class, def, #, if or print; what is there is run, cut off or not"
)


@dataclass(frozen=True)
class Problem:
    """prompt: imports, helpers, and a function's head with its docstring. test: defines check(candidate)."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


@cache
def problems() -> tuple[Problem, ...]:
    with gzip.open(_FILE, "rt", encoding="utf-8") as file:
        return tuple(Problem(**json.loads(line)) for line in file)


def chat_questions(sample: int) -> list[Question]:
    return [
        Question(p.task_id, sample, ({"role": "user", "content": f"{ASKED}\n\n```python\n{p.prompt.strip()}\n```"},))
        for p in problems()
    ]


def raw_questions(sample: int) -> list[Question]:
    return [Question(p.task_id, sample, prompt=_open(p.prompt), stop=STOPS) for p in problems()]


def judged(answer: Answer, isolation: Isolation | None, *, raw: bool) -> Verdict:
    """Whether the answer's program passes, cut off or not."""
    assert isolation is not None
    problem = _by_id()[answer.task_id]
    program = (
        completion_of(answer.text, _open(problem.prompt), STOPS)
        if raw
        else program_of(answer.text, problem.prompt, problem.entry_point)
    )
    return judge(program, problem.prompt, problem.test, problem.entry_point, isolation)


def _open(prompt: str) -> str:
    """Tokenizers write a line end and the indentation behind it as one: behind a line end, a model that would have gone
    on with the function begins something else."""
    return prompt.rstrip()


@cache
def _by_id() -> dict[str, Problem]:
    return {problem.task_id: problem for problem in problems()}
