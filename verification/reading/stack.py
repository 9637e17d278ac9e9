"""Several quantized matrices of one shape, read at once and looked at as one with all their rows."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from verification.reading.stored_codes import Codes

TOGETHER = 1 << 18
TOGETHER_ON_GPU = 1 << 28
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


Part = TypeVar("Part")


def read_together(read: Callable[[str], Part], names: Sequence[str], device: torch.device) -> list[Part]:
    """By several threads where that is not the work of a few microseconds each."""
    if device.type == "cpu":
        return [read(name) for name in names]
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(read, names))
