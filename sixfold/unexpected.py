"""A defect of ours, as a user should meet it: one sentence, and the traceback in a file."""

import os
import sys
import tempfile
import traceback
from pathlib import Path

from sixfold import __version__


def unexpected(error: Exception) -> str:
    """One sentence on the exception being handled, which says where its traceback was saved."""
    return f"unexpected {_one_line(error)}; the traceback is in {_save_traceback()}, please report it."


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _save_traceback() -> Path:
    handle, path = tempfile.mkstemp(prefix="sixfold-", suffix="-traceback.txt", text=True)
    with os.fdopen(handle, "w") as file:
        file.write(f"sixfold {__version__}, Python {sys.version.split()[0]}\n{' '.join(sys.argv)}\n\n")
        file.write(traceback.format_exc())
    return Path(path)
