"""Kernels of rounding on a GPU, compiled by processes of their own while a calibration runs.

Triton compiles a kernel where it is first launched, for 1 to 8 seconds, and keeps it on disk for every other process.
In a walk all that wait for their turn at the GPU would wait for that as well.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import multiprocessing

from exporters.export.planning import Planned, compensates
from exporters.export.speed import compile_kernels, has_kernels
from exporters.rounding.device import device
from sixfold.runner.machine_speed import COMPENSATED

_PROCESSES = 8
_CORES = 2
"""For each of them: the calibration needs some as well."""

_OF_MEMORY = 1 / 20
"""The share of a GPU's free memory that all of them may take."""
_CONTEXT = 600 << 20
"""Bytes of it that one takes."""


def compile_ahead(planned: Sequence[Planned]) -> None:
    """Begins with what the plans' weights will be rounded by and was not compiled here yet, and returns. What goes
    wrong then shows where the kernels are run."""
    if device().type == "cpu" or find_spec("triton") is None:
        return
    missing = [name for name in kernels_of(planned) if not _mark(name).exists()]
    missing.sort(key=lambda name: not name.endswith(COMPENSATED))  # which take longest
    room = int(_OF_MEMORY * torch.cuda.mem_get_info()[0] / _CONTEXT)
    processes = min(_PROCESSES, (os.cpu_count() or 1) // _CORES, room, len(missing))
    for first in range(processes):
        with suppress(OSError):
            begin(missing[first::processes])


def begin(names: Sequence[str]) -> None:
    """A process that is not waited for, and ends with this one at the latest."""
    multiprocessing.get_context("spawn").Process(target=_compile, args=(names,), daemon=True).start()


def kernels_of(planned: Sequence[Planned]) -> list[str]:
    """Types, as `compile_kernels` takes them. Of compensated formats those of rounding to nearest as well, as weights
    are rounded of whose inputs nothing is known."""
    kinds = {
        (unit.encoding.partition(" ")[0], ending)
        for entry in planned
        if entry.plan is not None
        for unit in entry.plan.units
        for ending in ("", *([COMPENSATED] if compensates(entry.recipe) else []))
    }
    return sorted(kind + ending for kind, ending in kinds if has_kernels(kind + ending))


def _compile(names: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the terminal sends to all; the one that began them ends them
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(silent, stream.fileno())
    for name in names:
        with suppress(Exception):
            compile_kernels(name)
            _mark(name).touch()


def _mark(name: str) -> Path:
    """An empty file that says that a kernel is in Triton's cache: in there, and gone with it."""
    root = Path(os.environ.get("TRITON_HOME") or Path.home(), ".triton", "cache")
    told = f"{name} {torch.__version__} {torch.cuda.get_device_name()} {_sources()}"
    return Path(os.environ.get("TRITON_CACHE_DIR") or root, f"sixfold-{hashlib.sha256(told.encode()).hexdigest()[:16]}")


def _sources() -> str:
    """Of all kernels."""
    folder = Path(__file__).parents[1]
    files = sorted(path for room in ("ggml", "rounding") for path in (folder / room / "cuda").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
