"""What several formats make of the same weights in the same way, made once."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

Made = TypeVar("Made")


class _Entry(Generic[Made]):
    """lock: held while it is being made; others that want it wait."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.value: Made | None = None


_ENTRIES = WeakTensorKeyDictionary()
_LOCK = Lock()


def once(weight: torch.Tensor, what: Hashable, make: Callable[[], Made]) -> Made:
    """`make()`, or what it gave before for the same tensor object and `what`. It is kept for as long as the tensor is
    held, and shared by all that ask: not to be changed."""
    with _LOCK:
        entry: _Entry[Made] = _ENTRIES.setdefault(weight, {}).setdefault(what, _Entry())
    with entry.lock:
        if entry.value is None:
            entry.value = make()
        return entry.value
