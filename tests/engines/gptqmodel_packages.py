"""gptqmodel, through which transformers runs AWQ: a folder of packages beside the environment's own.

The sdist is plain Python; what a CPU runs is its kernel in PyTorch, which dequantizes to float16. Its declared
requirements would replace NumPy, so only those that are missing are installed.
"""

import sys
from pathlib import Path

from tests.engines.llama_programs.llama_cpp_tools import run

FOLDER = Path(__file__).parents[2] / ".venv-engines" / "gptqmodel"
_PACKAGES = (
    "gptqmodel==7.6.0",
    "defuser==0.0.28",
    "tokenicer",
    "logbar",
    "device-smi",
    "pypcre",
    "threadpoolctl",
    "protobuf",
    "torchao==0.18.0",
)


def gptqmodel() -> Path:
    """A folder for PYTHONPATH, filled where it is missing. Raises Unavailable."""
    if not FOLDER.is_dir():
        partial = FOLDER.with_name("gptqmodel.partial")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", partial]
        run("installing gptqmodel", *pip, *_PACKAGES)
        partial.rename(FOLDER)
    return FOLDER
