"""One subject evaluated: collected, judged, scored, and written beside it."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from evaluation.benchmarks.tasks import Judge, Task
from evaluation.client.asking import Answer
from evaluation.collect import Collected, Settings, collect
from evaluation.provider import Provider
from evaluation.result import conditions, document, endings_of, part_of, with_compared, with_gates
from evaluation.sandbox.isolation import Isolation
from evaluation.scoring import Marked
from evaluation.speed import speed
from evaluation.subject import Subject
from sixfold.artifact.evaluation_record import FILE, SPEED
from sixfold.artifact.workspace import read_json, write_json
from sixfold.progress import Progress


@dataclass(frozen=True)
class Job:
    """What to evaluate, and by which engine. isolation: how programs are shut in; called only where there are any."""

    subject: Subject
    provider: Provider
    tasks: Sequence[Task]
    settings: Settings
    isolation: Callable[[], Isolation]
    price: tuple[float, float] | None = None


def evaluate(
    job: Job, progress: Progress, compared: Mapping[str, Mapping[str, Any] | None], gates: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes evaluation.json and speed.json of the subject, and returns the first. compared: evaluation.json of other
    models, by what they are to this one (evaluation.result.COMPARED). gates: see evaluation.result."""
    if any(task.runs_code for task in job.tasks):
        job.isolation()  # before hours of answers that could not be judged
    collected = collect(job.subject, job.provider, job.tasks, job.settings, progress)
    parts = {task.name: _part(job, task, collected, progress) for task in job.tasks}
    found = document(job.subject, parts, {task.name: task for task in job.tasks})
    for whom, other in compared.items():
        if other is not None:
            found = with_compared(found, other, whom)
    found = with_gates(found, gates)
    write_json(job.subject.place(FILE), found)
    _write_speed(job, collected)
    return found


def _part(job: Job, task: Task, collected: Collected, progress: Progress) -> dict[str, Any]:
    answers = collected.answers[task.name]
    stated = conditions(task, job.provider, job.settings, collected.files[task.name].name)
    if task.judge is None:
        return endings_of(answers, stated)
    isolation = job.isolation() if task.runs_code else None
    marked = _marked(task, task.judge, answers, isolation, progress)
    return part_of(marked, job.settings.samples, stated, isolation.name if isolation else "")


def _marked(
    task: Task, judge: Judge, answers: Sequence[Answer], isolation: Isolation | None, progress: Progress
) -> list[Marked]:
    with (
        progress(f"judging {task.name}", len(answers), "answers") as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):

        def mark(answer: Answer) -> Marked:
            marked = Marked(answer, judge(answer, isolation), task.strict)
            advance(1)
            return marked

        return list(pool.map(mark, answers))


def _write_speed(job: Job, collected: Collected) -> None:
    """Where answers were asked for now; else what an earlier run measured stands."""
    path = job.subject.place(SPEED)
    if collected.fresh or read_json(path) is None:
        answers = [answer for found in collected.answers.values() for answer in found]
        write_json(path, speed(job.subject, job.provider, answers, collected.peak, job.price))
