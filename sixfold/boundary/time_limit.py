"""Programs that come with a checkpoint, such as chat templates, stopped where they do not end."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sixfold.errors import SixfoldError


class _Late(BaseException):
    """Raised inside what takes too long; no `except Exception` on the way stops it."""


@contextmanager
def time_limit(seconds: float, what: str, remedy: str) -> Iterator[None]:
    """Raises SixfoldError, which says that `what` takes too long, in any thread. Works on Python code alone: one
    call of a function written in C is waited for."""
    thread = ctypes.c_ulong(threading.get_ident())
    lock, done = threading.Lock(), threading.Event()

    def stop() -> None:
        with lock:
            if not done.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Late))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            with lock:
                done.set()
            timer.cancel()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # what was sent and has not arrived
    except _Late:
        raise SixfoldError(f"{what} takes more than {seconds:g} seconds", remedy) from None
