"""Several quantized matrices of one shape, read at once and looked at as one with all their rows."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from verification.reading.stored_codes import Codes

_TOGETHER = 1 << 18
_TOGETHER_ON_GPU = 1 << 28
"""Weights that are read together: what a processor's cache holds, and what keeps a GPU busy."""

ALL = slice(None)
_READERS = 8


@dataclass(frozen=True)
class Stack:
    """values: float32 [matrices * rows, columns]. codes: of these; None where they need not be the nearest."""

    values: torch.Tensor
    codes: Codes | None

    def part(self, rows: slice) -> "Stack":
        if rows == ALL:
            return self
        codes = None if self.codes is None else self.codes.rows(*rows.indices(len(self.values))[:2])
        return Stack(self.values[rows], codes)


def in_stacks(
    tensors: Iterable[tuple[str, Hashable, int]], device: torch.device
) -> Iterator[tuple[Hashable, list[str]]]:
    """Names with the same key together, with it, in their order, as many as are looked at as one on `device`.

    tensors: of each its name, its key, and the number of its weights.
    """
    most = _TOGETHER_ON_GPU if device.type == "cuda" else _TOGETHER
    stacks: dict[Hashable, list[str]] = {}
    for name, key, size in tensors:
        together = stacks.setdefault(key, [])
        together.append(name)
        if (len(together) + 1) * size > most:
            yield key, stacks.pop(key)
    yield from stacks.items()


Part = TypeVar("Part")


def read_together(read: Callable[[str], Part], names: Sequence[str], device: torch.device) -> list[Part]:
    """By several threads where that is not the work of a few microseconds each."""
    if device.type == "cpu":
        return [read(name) for name in names]
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, names))
