"""Several quantized matrices of one shape, read at once and looked at as one with all their rows."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from verification.reading.stored_codes import Codes

_TOGETHER = 1 << 18
_TOGETHER_ON_GPU = 1 << 28
"""Weights that are read together: what a processor's cache holds, and what keeps a GPU busy."""
_BYTES = 512
"""Of a GPU's memory for each of them, a few dozen of which are taken while they are compared."""

ALL = slice(None)
_READERS = 16


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
    most = _TOGETHER
    if device.type == "cuda":
        most = min(_TOGETHER_ON_GPU, torch.cuda.get_device_properties(device).total_memory // _BYTES)
    stacks: dict[Hashable, list[str]] = {}
    for name, key, size in tensors:
        together = stacks.setdefault(key, [])
        together.append(name)
        if (len(together) + 1) * size > most:
            yield key, stacks.pop(key)
    yield from stacks.items()


def gathered(
    names: Sequence[str],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    read_into: Callable[[str, torch.Tensor], None],
    device: torch.device,
) -> torch.Tensor:
    """What is stored under each name, [names, *shape], on `device`.

    read_into: fills a tensor of the CPU of this shape. All are moved to a GPU at once, by the calling thread: one by
    one, each would wait for all that the GPU was given before.
    """
    held = torch.empty((len(names), *shape), dtype=dtype, pin_memory=device.type == "cuda")
    if device.type == "cpu":  # the work of a few microseconds each
        for name, out in zip(names, held, strict=True):
            read_into(name, out)
        return held
    with ThreadPoolExecutor(_READERS) as readers:
        for _ in readers.map(read_into, names, held):
            pass
    return held.to(device, non_blocking=True)
