"""How much memory this machine has available, and its GPUs."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Allowed:
    """Bytes that a run may use; None: what is free when it begins. device: of each GPU."""

    host: int | None = None
    device: int | None = None


FREE = Allowed()


_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that PyTorch's allocator is set by, the second by its older name."""


def use_memory_whole() -> None:
    """Has PyTorch take a GPU's memory in segments that grow, unless the user has set its allocator: stages one after
    the other hold tensors of other sizes, whose segments leave holes that no other tensor fits into. To be called
    before a GPU is used; processes that are begun later do the same."""
    if sys.platform == "linux" and not any(name in os.environ for name in _SETTINGS):
        os.environ[_SETTINGS[0]] = "expandable_segments:True"


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return kilobytes * 1024


def available_on(device: "torch.device") -> int | None:
    """The same of a device: of a GPU, what is not in use there."""
    if device.type != "cuda":
        return available_memory()
    import torch  # not where only the host's memory is asked for: `sixfold --help` must not wait for it

    torch.cuda.empty_cache()
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def unused_on(device: "torch.device") -> int:
    """Bytes of a GPU that no tensor takes: those that are free, and what PyTorch keeps for the next."""
    import torch

    free: int = torch.cuda.mem_get_info(device)[0]
    return free + int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
