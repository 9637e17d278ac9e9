"""What can be evaluated: how each is asked and judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from evaluation.benchmarks import endings, gsm8k, humaneval
from evaluation.client.asking import Answer, Question
from evaluation.sandbox.isolation import Isolation
from evaluation.sandbox.judge import Verdict

Judge = Callable[[Answer, Isolation | None], Verdict]


@dataclass(frozen=True)
class Task:
    """name: of its records, and on the command line. questions: of one sample of every problem. method: how it is
    asked and judged, in words. judge: None where answers are not right or wrong. runs_code: whether answers are
    programs. strict: whether an answer that was cut off
    fails. temperature: unless another is asked for."""

    name: str
    benchmark: str
    questions: Callable[[int], list[Question]]
    method: str
    judge: Judge | None
    runs_code: bool = False
    strict: bool = True
    temperature: float = 0.0


TASKS = {
    task.name: task
    for task in (
        Task(
            humaneval.CHAT,
            humaneval.NAME,
            humaneval.chat_questions,
            humaneval.CHAT_METHOD,
            partial(humaneval.judged, raw=False),
            runs_code=True,
        ),
        Task(
            humaneval.RAW,
            humaneval.NAME,
            humaneval.raw_questions,
            humaneval.RAW_METHOD,
            partial(humaneval.judged, raw=True),
            runs_code=True,
            strict=False,
        ),
        Task(gsm8k.TASK, gsm8k.NAME, gsm8k.questions, gsm8k.METHOD, lambda answer, isolation: gsm8k.judged(answer)),
        Task(
            endings.TASK,
            endings.NAME,
            endings.questions,
            f"MT-Bench's first turns; {endings.LOOP_RULE}",
            None,
            temperature=endings.TEMPERATURE,
        ),
    )
}
DEFAULT = (humaneval.CHAT, humaneval.RAW, endings.TASK)


def questions_of(task: Task, samples: int, problems: int | None) -> list[Question]:
    """All samples of the first problem, then of the next; problems: how many of them, None for all."""
    by_sample = [task.questions(sample)[:problems] for sample in range(samples)]
    return [question for of_problem in zip(*by_sample, strict=True) for question in of_problem]
