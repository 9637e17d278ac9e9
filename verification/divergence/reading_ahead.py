"""One thread that reads while another runs, on a GPU with a stream of its own.

Everything that one stream is given is done in the order in which it was given. So in one stream a copy to the GPU, or a
number that is waited for, would wait for all products that the run has ahead of it, and the run for what is compared.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

_TURN = 0.0005
"""Seconds until a thread of Python that waits gets its turn, a tenth of the usual: those that read do little between
two reads, and would wait as long for the one that gives the GPU its work."""

Made = TypeVar("Made")


class Ahead:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._stream: Any = torch.cuda.Stream() if torch.cuda.is_available() else None

    def submit(self, work: Callable[..., Made], *given: Any) -> Future[Made]:
        """What `work` makes can be used when the future has it."""
        if self._stream is None:
            return self._pool.submit(work, *given)

        def ahead() -> Made:
            with torch.cuda.stream(self._stream):
                made = work(*given)
                self._stream.synchronize()
                return made

        return self._pool.submit(ahead)

    def settle(self) -> None:
        """Waits for what the calling thread has given the GPU: before memory that it reads is written again."""
        if self._stream is not None:
            torch.cuda.current_stream().synchronize()


@contextmanager
def reading_ahead() -> Iterator[Ahead]:
    before = sys.getswitchinterval()
    with ThreadPoolExecutor(1) as pool:
        ahead = Ahead(pool)
        try:
            if torch.cuda.is_available():
                sys.setswitchinterval(_TURN)
            yield ahead
        finally:
            sys.setswitchinterval(before)
