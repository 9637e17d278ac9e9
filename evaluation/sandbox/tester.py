"""Runs one problem's tests, in a process of its own outside the sandbox, against code that runs inside.

The tests see a function that hands its arguments to the sandbox and its result back, as plain data. The verdict is this
process's, which foreign code shares neither memory nor a descriptor with: there is no token that it could steal. The
tests find the definitions of the prompt (HumanEval has three problems whose tests call a helper from it), not those of
the answer.

On standard input comes one line, {"worker", "preamble", "test", "calls", "answers", "parent"}: what the sandbox is to
run (see inside/worker.py), two descriptors, a process, and "seconds" that the tests may take. To standard output goes
READY once foreign code is about to run, and at last ["passed" | "failed" | "refused", why].
"""

import os
import random
import signal
import sys
from typing import Any, BinaryIO

from evaluation.sandbox.inside.limits import limit
from evaluation.sandbox.inside.parent import die_with_parent
from evaluation.sandbox.inside.values import LONGEST, NotPlain, line_of, value_of
from evaluation.sandbox.inside.worker import READY


class Ended(Exception):
    """The sandbox does not answer any more."""


class Raised(Exception):
    """The code raised where it was called; says what."""


class Refused(Exception):
    """The sandbox could not be closed; says why."""


class OutOfTime(BaseException):
    """Not to be caught by a test."""


class Candidate:
    """The function under test. called: how often."""

    def __init__(self, calls: BinaryIO, answers: BinaryIO) -> None:
        self.calls, self.answers, self.called = calls, answers, 0

    def __call__(self, *arguments: Any) -> Any:
        self.called += 1
        try:
            self.calls.write(line_of(list(arguments)))
        except OSError as error:
            raise Ended from error
        kind, value = self.read()
        if kind == "value":
            return value
        # A name that foreign code has chosen.
        raise Raised(value if isinstance(value, str) and value.isidentifier() and len(value) < 80 else "something")

    def read(self) -> tuple[str, Any]:
        line = self.answers.readline(LONGEST + 1)
        if not line:
            raise Ended
        found = value_of(line)
        if not (isinstance(found, list) and len(found) == 2 and isinstance(found[0], str)):
            raise NotPlain("an answer is no value")
        return found[0], found[1]


def verdict(job: dict[str, Any]) -> list[str]:
    calls, answers = os.fdopen(job["calls"], "wb", buffering=0), os.fdopen(job["answers"], "rb")
    candidate = Candidate(calls, answers)
    try:
        _enter(candidate, job["worker"])
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        names: dict[str, Any] = {"__name__": "tests"}
        random.seed(0)  # some tests draw their arguments
        exec(compile(job["preamble"] + "\n\n" + job["test"], "<tests>", "exec"), names)
        # One problem's test (HumanEval/33) calls the function by its name too, and means the answer's.
        names[job["worker"]["entry_point"]] = candidate
        names["check"](candidate)
    except Refused as error:
        return ["refused", str(error)]
    except OutOfTime:
        return ["failed", "out of time"]
    except AssertionError:
        return ["failed", "a wrong result"]
    except (Ended, BrokenPipeError):
        return ["failed", "the program ended"]
    except NotPlain as error:
        return ["failed", str(error)]
    except Raised as error:
        return ["failed", f"raised {error}"]
    except Exception as error:  # a result of another type than the test reckons with
        return ["failed", f"a result that the test cannot take ({type(error).__name__})"]
    return ["passed", ""] if candidate.called else ["failed", "the test never called it"]


def _enter(candidate: Candidate, worker: dict[str, Any]) -> None:
    """Nothing foreign has run until the worker is ready: if it does not come to that, it is no verdict on an answer."""
    try:
        candidate.calls.write(line_of(worker))
        kind, reason = candidate.read()
    except (Ended, NotPlain, OSError) as error:
        raise Refused("its first process ended") from error
    if kind != READY:
        raise Refused(str(reason))
    sys.stdout.buffer.write(line_of([READY, ""]))
    sys.stdout.buffer.flush()


def _out_of_time(*_: object) -> None:
    raise OutOfTime


def main() -> None:
    die_with_parent()
    job = value_of(sys.stdin.buffer.readline())
    if os.getppid() != job["parent"]:
        return
    limit()  # of results that take long to compare
    signal.signal(signal.SIGALRM, _out_of_time)
    sys.stdout.buffer.write(line_of(verdict(job)))
