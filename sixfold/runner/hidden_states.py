"""Hidden states between two layers, in memory-mapped files: they may exceed memory, and survive a killed process.

Files take turns: while a layer runs, one holds what it reads and the next what it gives; where there are three, the
last holds what the layer before read. The page cache keeps as much of them in memory as there is room for.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sixfold.errors import SixfoldError
from sixfold.sizes import size

_PAGE = 1 << 16
"""Bytes of the largest page that a processor has. No two batches have a page in common: of one that two machines write
into, a shared file system keeps what either has."""


@dataclass(frozen=True)
class _Place:
    start: int
    shape: tuple[int, ...]


class HiddenStates:
    """Of a run over batches. shapes: of each batch's hidden states, in the order of the batches. dtype: as stored.

    turn: which of the files is read now; `flip` after each layer. files: two or three.
    """

    def __init__(
        self, folder: Path, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, turn: int = 0, *, files: int = 2
    ) -> None:
        self.turn = turn
        self._dtype = dtype
        self._places = []
        total = 0
        for shape in shapes:
            self._places.append(_Place(total, shape))
            total += self._padded(torch.Size(shape).numel())
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = tuple(folder / f"hidden-{number}.bin" for number in range(files))
        for path in self._paths:
            _allocate(path, total * dtype.itemsize)
        self._files = tuple(torch.from_file(str(p), shared=True, size=total, dtype=dtype) for p in self._paths)

    def read(self, batch: int) -> torch.Tensor:
        """The current layer's input: a view, valid until `flip` is called as often as there are files."""
        return self._view(self.turn, batch)

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """The current layer's output, from any device."""
        self._view(self._next, batch).copy_(hidden)

    def written(self, batch: int) -> torch.Tensor:
        """The current layer's output, where it was written: a view, valid until `flip` is called once."""
        return self._view(self._next, batch)

    def flip(self) -> None:
        self.turn = self._next

    @property
    def _next(self) -> int:
        return (self.turn + 1) % len(self._paths)

    def checksum(self, batches: Iterable[int] | None = None) -> int:
        """Of what the next layer reads of these batches, or of all: the wrapping sum of one 64-bit word of every page
        of 4096 bytes. A kill loses nothing, but a power failure, or a machine that is lost, loses whole pages, whose
        words are then those of another layer."""
        file, total = self._files[self.turn], torch.zeros((), dtype=torch.int64)
        for batch in range(len(self._places)) if batches is None else batches:
            place = self._places[batch]
            end = place.start + self._padded(torch.Size(place.shape).numel())
            total += file[place.start : end].view(torch.int64)[:: 4096 // 8].sum()
        return int(total)

    def sync(self) -> None:
        """Put what the next layer reads on the disk, where other machines see it."""
        with self._paths[self.turn].open("rb") as file:
            os.fsync(file.fileno())

    def remove(self) -> None:
        self._files = ()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _padded(self, numel: int) -> int:
        each = _PAGE // self._dtype.itemsize
        return -(-numel // each) * each

    def _view(self, file: int, batch: int) -> torch.Tensor:
        place = self._places[batch]
        return self._files[file][place.start : place.start + torch.Size(place.shape).numel()].view(place.shape)


def nbytes(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, files: int) -> int:
    """Bytes of all files together."""
    return files * sum(torch.Size(shape).numel() for shape in shapes) * dtype.itemsize


def mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in a memory-mapped file of its own: it may exceed memory."""
    numel = torch.Size(shape).numel()
    path.unlink(missing_ok=True)
    _allocate(path, numel * dtype.itemsize)
    return torch.from_file(str(path), shared=True, size=numel, dtype=dtype).view(shape)


def _allocate(path: Path, nbytes: int) -> None:
    """Grow a file that is too short, on the disk: where a mapped file has holes, a full disk is a SIGBUS."""
    with path.open("ab") as file:
        if os.fstat(file.fileno()).st_size >= nbytes:
            return  # another process may be writing into it
        try:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, nbytes)
        except OSError as error:
            raise SixfoldError(
                f"{size(nbytes)} for hidden states cannot be had in {path.parent}: {error.strerror}",
                "free some space, or choose another OUT; fewer samples need less",
            ) from error
