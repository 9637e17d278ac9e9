"""Whether a program passes a problem's tests, whatever the program does."""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.sandbox.inside.values import line_of, value_of
from evaluation.sandbox.inside.worker import READY
from evaluation.sandbox.isolation import Isolation, environment, interpreter
from sixfold.errors import SixfoldError

SECONDS = 15.0
"""Wall-clock time that the tests of one problem may take."""
_START = 120.0
"""And that both processes may take to start, on a machine that has much else to do."""
_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class Verdict:
    """why: "" where it passed."""

    passed: bool
    why: str = ""


def judge(
    program: str, preamble: str, test: str, entry_point: str, isolation: Isolation, seconds: float = SECONDS
) -> Verdict:
    """program: foreign code that defines entry_point. preamble: trusted code that the test's names come from. test:
    trusted code that defines check(candidate).

    Raises SixfoldError where the sandbox cannot be entered, which is no verdict on the program.
    """
    with suppress(UnicodeEncodeError):
        program.encode()
        return _judged(program, preamble, test, entry_point, isolation, seconds)
    return Verdict(False, "no text")


def _judged(program: str, preamble: str, test: str, entry_point: str, isolation: Isolation, seconds: float) -> Verdict:
    worker = _start(isolation.worker(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    tester = None
    try:
        assert worker.stdin is not None
        assert worker.stdout is not None
        pipes = (worker.stdin.fileno(), worker.stdout.fileno())
        command = interpreter(_ROOT, "evaluation.sandbox.tester")
        tester = _start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=pipes)
        worker.stdin.close()
        worker.stdout.close()
        job = {
            "worker": {"program": program, "entry_point": entry_point, "filter": isolation.filter},
            "preamble": preamble,
            "test": test,
            "calls": pipes[0],
            "answers": pipes[1],
            "parent": os.getpid(),
            "seconds": seconds,
        }
        try:
            said, _ = tester.communicate(line_of(job), timeout=_START + seconds)
        except subprocess.TimeoutExpired as error:
            said = error.output or b""  # the tester watches the time, unless it is lost in comparing results
    finally:
        for process in (worker, tester):
            if process is not None:
                _end(process)
    return _verdict(said)


def _verdict(said: bytes) -> Verdict:
    """Of what the tester says: that the sandbox is entered, and how it ended."""
    lines = [line for line in said.splitlines(keepends=True) if line.endswith(b"\n")]
    kind, why = value_of(lines[-1]) if lines else ("refused", "it did not start in time")
    if kind == "refused":
        raise SixfoldError(f"the sandbox cannot be entered ({why})", "run the same command again to go on")
    if kind == READY:  # and no word since
        return Verdict(False, "a result that the test cannot take")
    return Verdict(kind == "passed", why)


def _start(command: list[str], **pipes: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env=environment(), cwd="/", start_new_session=True, **pipes
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With all of its group. Behind it, the sandbox's processes end by themselves: their first one dies with it."""
    if process.returncode is None:  # a number that was waited for may be another's by now
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()
