"""How any error is shown to a user: one sentence; for a defect of ours also the traceback in a file."""

import errno
import os
import sys
import tempfile
import traceback
from pathlib import Path

from sixfold import __version__
from sixfold.errors import SixfoldError

_MACHINES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""Errors that concern the disk and its permissions, wherever they are raised."""


def sentence(error: Exception) -> str:
    """The message of a SixfoldError or a disk error; any other error is a defect, and its traceback is saved."""
    if isinstance(error, SixfoldError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _MACHINES:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        return f"{what}; check the disk and its permissions, and run the same command again to resume."
    return f"unexpected {_one_line(error)}; the traceback is in {_save_traceback(error)}, please report it."


def exit_code(error: Exception) -> int:
    return error.exit_code if isinstance(error, SixfoldError) else 1


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _save_traceback(error: Exception) -> Path:
    handle, path = tempfile.mkstemp(prefix="sixfold-", suffix="-traceback.txt", text=True)
    with os.fdopen(handle, "w") as file:
        file.write(f"sixfold {__version__}, Python {sys.version.split()[0]}\n{' '.join(sys.argv)}\n\n")
        file.writelines(traceback.format_exception(error))
    return Path(path)
