"""What the experts of a stacked site read, summed up over the tokens of each: from its file, one expert at a time, or
on a GPU those of all at once.

One expert's are some megabytes behind a header of a thousand names, which every format asks for. Read when they are
asked for, into memory that is not pinned, they kept a GPU waiting for longer than rounding took.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch

from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES, StoredTensor, read_header
from sixfold.statistics.moments import unpack
from sixfold.statistics.statistics import Statistics

_READERS = 8
_AT_ONCE = 2 * _READERS
"""Experts whose sums are in pinned memory at once, on their way."""


class ExpertSums(Protocol):
    """row: of an expert, or with sums of extra tokens its place among the starved."""

    def count(self, row: int) -> int:
        """Tokens."""
        ...

    def products(self, row: int) -> torch.Tensor:
        """Sum of x x^T, float32 [C, C], on the device."""
        ...

    def first(self, row: int) -> tuple[torch.Tensor, int]:
        """What first tokens of windows read, float32 [C], and how many they are."""
        ...


def expert_sums(statistics: Statistics, site: str, prefix: str, device: torch.device) -> ExpertSums:
    """prefix: as in Statistics.moments."""
    return _on_gpu(statistics, site, prefix, device) if device.type == "cuda" else _InFile(statistics, site, prefix)


@dataclass(frozen=True)
class _InFile:
    statistics: Statistics
    site: str
    prefix: str

    def count(self, row: int) -> int:
        name = f"{self.prefix}count"
        return int(self.statistics.site(self.site, [name])[name][row])

    def products(self, row: int) -> torch.Tensor:
        return self.statistics.moments(self.site, [row], self.prefix, torch.device("cpu"))[0]

    def first(self, row: int) -> tuple[torch.Tensor, int]:
        return self.statistics.first(self.site, row)


@dataclass(frozen=True)
class _OnGpu:
    """packed: as sixfold.statistics.moments.pack gives them, [E, ...]. sum_sq, firsts: float32 [E, C], all three on the
    device. counts, first_counts: of each expert."""

    packed: torch.Tensor
    sum_sq: torch.Tensor
    counts: Sequence[int]
    firsts: torch.Tensor
    first_counts: Sequence[int]

    def count(self, row: int) -> int:
        return self.counts[row]

    def products(self, row: int) -> torch.Tensor:
        return unpack(self.packed[row], self.sum_sq[row])

    def first(self, row: int) -> tuple[torch.Tensor, int]:
        return self.firsts[row], self.first_counts[row]


def _on_gpu(statistics: Statistics, site: str, prefix: str, device: torch.device) -> _OnGpu:
    path = statistics.file_of(site)
    folder = WeightFolder(path.parent, pinned=True)
    stored = {tensor.name: tensor for tensor in read_header(path.parent, path.name).tensors}

    def small(name: str) -> torch.Tensor:
        tensor = stored[f"{site}/{name}"]
        return folder.rows(tensor, 0, tensor.shape[0])

    return _OnGpu(
        _moved(folder, stored[f"{site}/{prefix}moments"], device),
        small(f"{prefix}sum_sq").to(device),
        small(f"{prefix}count").tolist(),
        small("first").to(device),
        small("first_count").tolist(),
    )


def _moved(folder: WeightFolder, tensor: StoredTensor, device: torch.device) -> torch.Tensor:
    held = torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype], device=device)
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(held), _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, len(held)))
            for row, read in zip(some, readers.map(lambda row: folder.rows(tensor, row, row + 1), some), strict=True):
                held[row].copy_(read[0], non_blocking=True)
    return held
