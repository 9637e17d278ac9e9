"""One process at a time for what is written in several steps."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sixfold.errors import SixfoldError


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold the file `path` for this process alone while the context is open; it is removed at the end.

    The kernel drops the lock with the process that holds it, so a killed run never blocks the next one: a file that is
    left over is free. Raises SixfoldError, which begins with `busy`, where another process holds it.
    """
    descriptor = _held(path, busy)
    try:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def clear_left(path: Path, work: Path) -> None:
    """Remove the lock `path` and the folder `work` that a run left which was killed when all was done; not while
    another process holds them, and as far as the file system lets us."""
    if not (path.exists() or work.exists()):
        return
    with suppress(OSError, SixfoldError), exclusive(path, "busy"):
        shutil.rmtree(work, ignore_errors=True)


def _held(path: Path, busy: str) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the last holder has just removed the empty folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise SixfoldError(busy, "wait for it, or stop it") from error
        # Between opening and locking, the last holder may have removed the file: what is held must be what is there.
        if _is_there(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
