"""Runs foreign code in the sandbox: the only process in which it ever runs.

On standard input comes first {"program", "entry_point", "filter"}, then one list of arguments a call; for each a line
goes back, ["value", result] or ["raised", name of the exception]. The tests stay outside: this process knows nothing of
them but the arguments of a call, so that a program which reads, patches, forges or ends all that is in here can answer
a call wrongly or not at all, and no more. What it prints goes nowhere, and it reads from an empty input.
"""

import os
from typing import Any

from evaluation.sandbox.inside.limits import limit
from evaluation.sandbox.inside.parent import die_with_parent
from evaluation.sandbox.inside.seccomp import Unsupported, forbid
from evaluation.sandbox.inside.values import NotPlain, line_of, value_of

READY = "ready"


def main() -> None:
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    _to_nowhere()
    die_with_parent()
    job = value_of(calls.readline())
    limit()
    try:
        forbid()
    except Unsupported as reason:
        if job["filter"]:
            answers.write(line_of(["refused", str(reason)]))
            return
    answers.write(line_of([READY, None]))
    function, raised = _defined(job["program"], job["entry_point"])
    for line in calls:
        if raised:
            answers.write(line_of(["raised", raised]))
        else:
            answers.write(_answered(function, value_of(line)))


def _to_nowhere() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _defined(program: str, entry_point: str) -> tuple[Any, str]:
    """The function, or the name of what was raised instead."""
    names: dict[str, Any] = {"__name__": "solution"}
    try:
        exec(compile(program, "<solution>", "exec"), names)
        return names[entry_point], ""
    except BaseException as error:
        return None, type(error).__name__


def _answered(function: Any, arguments: Any) -> bytes:
    try:
        return line_of(["value", function(*arguments)])
    except NotPlain:
        return line_of(["raised", "NotPlain"])
    except BaseException as error:
        return line_of(["raised", str(type(error).__name__)])
