"""A log of every long run beside its outputs: what was asked, what was said and when, and what stopped it."""

import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import TextIO

import click

from sixfold import __version__

FOLDER = "logs"


class _Both(TextIOBase):
    """Writes to the terminal, and whole lines to the log with the time; progress bars, which move the cursor, are left
    out of it."""

    def __init__(self, shown: TextIO, log: TextIO) -> None:
        self._shown, self._log, self._line = shown, log, ""

    def write(self, text: str) -> int:
        self._shown.write(text)
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            if "\x1b[" not in line and "\r" not in line and line.strip():
                self._log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
                self._log.flush()
        return len(text)

    def flush(self) -> None:
        self._shown.flush()

    def isatty(self) -> bool:
        return self._shown.isatty()

    def fileno(self) -> int:
        return self._shown.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._shown.encoding


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Log to <folder>/logs/<time>-<command>.log. With `sixfold -v` also what the libraries say; they say it on the
    terminal too then. A disk that cannot be written costs the log, not the run."""
    context = click.get_current_context()
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{context.info_name}-{os.getpid()}.log"
        log = (folder / FOLDER / name).open("w", encoding="utf-8")
    except OSError:
        yield
        return
    with log:
        log.write(
            f"{' '.join(sys.argv)}\nsixfold {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        )
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            with redirect_stdout(_Both(sys.stdout, log)), redirect_stderr(_Both(sys.stderr, log)):
                yield
        except BaseException:
            log.write(traceback.format_exc())
            raise
        finally:
            root.removeHandler(handler)
