"""Answers to all that is asked of one subject: from its records, and where some are missing, from its provider."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.benchmarks.endings import TASK as ENDINGS
from evaluation.benchmarks.tasks import Task, questions_of
from evaluation.client.asking import Answer, Question, Sampling
from evaluation.client.gather import gather, still_asked
from evaluation.client.records import Records, opened, records_path
from evaluation.client.retry import PATIENCE, Patience
from evaluation.provider import Provider, Served
from evaluation.subject import Subject
from sixfold.artifact.workspace import digest_of
from sixfold.progress import Progress

FOLDER = "evaluation"
"""Of the answers and the engine's log, beside evaluation.json."""


@dataclass(frozen=True)
class Settings:
    """max_tokens: the cap on an answer. temperature: None takes each task's own. samples: of every problem. answers:
    how many the task "answers" draws. problems: how many of each benchmark, from its first; None for all."""

    max_tokens: int
    temperature: float | None = None
    seed: int = 0
    samples: int = 1
    answers: int = 240
    problems: int | None = None
    patience: Patience = PATIENCE

    def sampling(self, task: Task) -> Sampling:
        return Sampling(self.max_tokens, task.temperature if self.temperature is None else self.temperature, self.seed)

    def questions(self, task: Task) -> list[Question]:
        if task.name != ENDINGS:
            return questions_of(task, self.samples, self.problems)
        every = task.questions(0)
        return [q for sample in range(-(-self.answers // len(every))) for q in task.questions(sample)][: self.answers]

    def asked(self, task: Task) -> dict[str, Any]:
        """What two runs must share to be compared."""
        sampling = self.sampling(task)
        questions = [(q.task_id, q.messages, q.prompt, q.stop) for q in task.questions(0)]
        return {
            "task": task.name,
            "questions": digest_of(questions),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
        }


@dataclass(frozen=True)
class Collected:
    """answers: of each task, in the order of its questions. files: of their records. peak: bytes of the engine's
    memory, None where it was not started here. fresh: how many were asked for now."""

    answers: Mapping[str, Sequence[Answer]]
    files: Mapping[str, Path]
    peak: int | None
    fresh: int


def collect(
    subject: Subject, provider: Provider, tasks: Sequence[Task], settings: Settings, progress: Progress
) -> Collected:
    """Raises SixfoldError where an answer is not to be had; those that were are kept for the next run."""
    folder = subject.place(FOLDER)
    with ExitStack() as stack:
        records = {
            task.name: stack.enter_context(_records(folder, subject, provider, task, settings)) for task in tasks
        }
        asked = {task.name: settings.questions(task) for task in tasks}
        missing = sum(len(still_asked(asked[name], found)) for name, found in records.items())
        peak = None
        if missing:
            served = stack.enter_context(provider.opened(folder / "engine.log", progress))
            _ask(served, provider, tasks, asked, records, settings, progress, subject.name)
            peak = served.running.peak_memory() if served.running is not None else None
        answers = {name: [records[name].answers[q.key] for q in questions] for name, questions in asked.items()}
        return Collected(answers, {name: found.path for name, found in records.items()}, peak, missing)


@contextmanager
def _records(folder: Path, subject: Subject, provider: Provider, task: Task, settings: Settings) -> Iterator[Records]:
    conditions = {
        "artifact": {"name": subject.name, "content": subject.content},
        "engine": {"name": provider.name, "build": provider.build},
        "endpoint": provider.endpoint.url if provider.endpoint is not None else "",
        **settings.asked(task),
    }
    with opened(records_path(folder, task.name, conditions), conditions) as records:
        yield records


def _ask(
    served: Served,
    provider: Provider,
    tasks: Sequence[Task],
    asked: Mapping[str, list[Question]],
    records: Mapping[str, Records],
    settings: Settings,
    progress: Progress,
    name: str,
) -> None:
    for task in tasks:
        gather(
            served.endpoint,
            asked[task.name],
            settings.sampling(task),
            records[task.name],
            provider.concurrency,
            settings.patience,
            progress,
            f"{name}, {task.name}",
            served.gone,
        )
