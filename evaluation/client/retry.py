"""Trying again what passes: a busy server, a lost connection, an answer that is none."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sixfold.errors import SixfoldError

Result = TypeVar("Result")


class Passing(Exception):
    """A failure that may not be there the next time. wait: seconds that the server asks for."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class Stopped(Exception):
    """Somebody else has failed for good, or the user has had enough."""


@dataclass(frozen=True)
class Patience:
    """tries: requests in all. first: seconds before the second one; doubled for each after it, up to `longest`, which
    also bounds what a server asks for."""

    tries: int = 6
    first: float = 1.0
    longest: float = 60.0


PATIENCE = Patience()


def patiently(
    attempt: Callable[[], Result], patience: Patience, stop: threading.Event, gone: Callable[[], str]
) -> tuple[Result, int]:
    """(result, tries). gone: why it is of no use to try again (an engine that has ended), "" where it may be.

    Raises SixfoldError that says what the last try met, and Stopped.
    """
    for number in range(1, patience.tries + 1):
        if stop.is_set():
            raise Stopped
        try:
            return attempt(), number
        except Passing as error:
            reason, asked = str(error), error.wait
        ended = gone()
        if ended:
            raise SixfoldError(ended, "see its log, and run the same command again to go on")
        if number < patience.tries:
            pause = patience.first * 2 ** (number - 1) if asked is None else asked
            stop.wait(min(pause, patience.longest))
    raise SixfoldError(
        f"after {patience.tries} tries {reason}",
        "what was answered is kept: see to the endpoint, and run the same command again to go on",
    )
