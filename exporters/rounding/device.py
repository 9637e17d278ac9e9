"""Where weights are rounded: on a GPU where there is one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock, local

import torch

from exporters.shared_by_formats import once
from sixfold.runner.available_memory import unused_on

_TURN = RLock()
"""What is compensated may hold weights that are rounded to nearest, which then have the turn already."""


class _Mine(local):
    """Of a thread. turns: it has, one within the other. sends: whether something is on its way to the host."""

    turns = 0
    sends = False


_MINE = _Mine()


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """From a GPU into pinned memory, which PyTorch keeps for the next: several times as fast as new pages."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)


def sent_home(tensor: torch.Tensor) -> torch.Tensor:
    """`to_host` of what this thread looks at when its turn is over: then it has arrived. The next batch is given to the
    GPU while this one is computed there. Without a turn it is there at once."""
    if not tensor.is_cuda or not _MINE.turns:
        return to_host(tensor)
    _MINE.sends = True
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


@contextmanager
def turn(device: torch.device) -> Iterator[None]:
    """On a GPU one batch at a time, as large as its memory allows; other threads read and write meanwhile."""
    if device.type == "cpu":
        yield
        return
    arrived = None
    with _TURN:
        _MINE.turns += 1
        try:
            yield
        finally:
            _MINE.turns -= 1
        if not _MINE.turns and _MINE.sends:
            arrived = torch.cuda.Event()
            arrived.record()
    if arrived is not None:
        _MINE.sends = False
        arrived.synchronize()


def moved(weight: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, once for all formats that are made of the same weight, while less than half of a GPU is in use."""
    if device.type == "cpu":
        return weight
    return once(weight, device, lambda: weight.to(device)) if _half_free(device) else weight.to(device)


def _half_free(device: torch.device) -> bool:
    free, total = torch.cuda.mem_get_info(device)
    return 2 * free > total or 2 * unused_on(device) > total


def at_device(
    weights: Sequence[torch.Tensor], work: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
) -> list[torch.Tensor]:
    """What `work` makes of weights of the host where this machine rounds, and back: tensors of the host."""
    place = device()
    with turn(place):
        home = to_host if _MINE.turns > 1 else sent_home  # within another's turn, whoever asked looks at it there
        return [home(one) for one in work([moved(weight, place) for weight in weights])]
