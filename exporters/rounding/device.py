"""Where weights are rounded: on a GPU where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_TURN = Lock()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """From a GPU into pinned memory, which PyTorch keeps for the next: several times as fast as new pages."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


@contextmanager
def turn(device: torch.device) -> Iterator[None]:
    """On a GPU one batch at a time, as large as its memory allows; other threads read and write meanwhile."""
    if device.type == "cpu":
        yield
        return
    with _TURN:
        yield
