"""All questions to an endpoint, several at a time, each answer recorded as it comes."""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import httpx

from evaluation.client.asking import Answer, Question, Sampling
from evaluation.client.endpoint import Endpoint, ask
from evaluation.client.records import Records
from evaluation.client.retry import Patience, Stopped, patiently
from sixfold.progress import Progress

_GRACE = 2.0
"""Seconds that requests under way have to come to an end once another has failed for good."""


def still_asked(questions: Iterable[Question], records: Records) -> list[Question]:
    return [question for question in questions if question.key not in records.answers]


def gather(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    records: Records,
    concurrency: int,
    patience: Patience,
    progress: Progress,
    description: str,
    gone: Callable[[], str] = lambda: "",
) -> None:
    """Only what the records do not have is asked. gone: why the engine cannot answer any more, "" while it can.

    Raises SixfoldError of the first question that fails for good; what was answered until then is recorded.
    """
    missing = still_asked(questions, records)
    if not missing:
        return
    waiting = iter(missing)
    lock, stop = threading.Lock(), threading.Event()
    done: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

    def work(client: httpx.Client) -> None:
        while not stop.is_set():
            with lock:
                question = next(waiting, None)
            if question is None:
                return
            try:
                done.put(_asked(client, endpoint, question, sampling, patience, stop, gone))
            except Stopped:
                return
            except BaseException as error:  # whatever it is, the main thread must hear of it, or it waits for ever
                done.put(error)
                return

    with endpoint.client(concurrency) as client, progress(description, len(missing), "answers") as advance:
        # Not to be waited for when the program ends: a request may take ten minutes.
        threads = [threading.Thread(target=work, args=(client,), daemon=True) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        try:
            for _ in missing:
                found = done.get()
                if isinstance(found, BaseException):
                    stop.set()
                    _keep_the_rest(done, records, threads)
                    raise found
                records.add(found)
                advance(1)
        finally:
            stop.set()


def _asked(
    client: httpx.Client,
    endpoint: Endpoint,
    question: Question,
    sampling: Sampling,
    patience: Patience,
    stop: threading.Event,
    gone: Callable[[], str],
) -> Answer:
    answer, tries = patiently(lambda: ask(client, endpoint, question, sampling), patience, stop, gone)
    return replace(answer, tries=tries)


def _keep_the_rest(
    done: "queue.SimpleQueue[Answer | BaseException]", records: Records, threads: Sequence[threading.Thread]
) -> None:
    for thread in threads:
        thread.join(_GRACE / len(threads))
    while not done.empty():
        found = done.get()
        if isinstance(found, Answer):
            records.add(found)
