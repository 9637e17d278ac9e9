"""Reads of exact byte ranges into fresh tensors, from many threads, with few files open at a time."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch

from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES, StoredTensor
from sixfold.errors import SixfoldError

MAX_OPEN = 64
"""Open files kept; a model may have more shards than a process may open (256 on macOS)."""


class WeightFolder:
    """The weight files of one folder. Descriptors are opened on first use, shared by all threads (positional reads
    have no cursor) and closed when the object goes. Pickled, it is the folder's path.

    pinned: whether tensors are read into pinned memory, as what goes on to a GPU is: PyTorch keeps it for the next one,
    where new pages take longer than the read.
    """

    def __init__(self, folder: Path, *, pinned: bool = False) -> None:
        self.folder = folder
        self.pinned = pinned
        self._lock = Lock()
        self._open: dict[str, int] = {}
        self._users: dict[str, int] = {}
        weakref.finalize(self, _close_all, self._open)

    def __reduce__(self) -> tuple[type["WeightFolder"], tuple[Path]]:
        return WeightFolder, (self.folder,)

    def rows(self, tensor: StoredTensor, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) along the first dimension, in the stored dtype; a 0-d tensor is its own single row."""
        whole = tensor.shape[0] if tensor.shape else 1
        shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
        row = tensor.nbytes // whole if whole else 0
        result = torch.empty(shape, dtype=TORCH_DTYPES[tensor.dtype], pin_memory=self.pinned)
        if result.numel():
            self.read_into(tensor.file, tensor.offset + start * row, result.reshape(-1).view(torch.uint8).numpy().data)
        return result

    def rows_into(self, tensor: StoredTensor, out: torch.Tensor) -> None:
        """All of it into the contiguous CPU tensor `out` of its shape and stored dtype."""
        if out.numel():
            self.read_into(tensor.file, tensor.offset, out.reshape(-1).view(torch.uint8).numpy().data)

    def read(self, file: str, offset: int, nbytes: int) -> bytes:
        buffer = bytearray(nbytes)
        self.read_into(file, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, file: str, offset: int, buffer: memoryview) -> None:
        """Fills `buffer` from byte `offset` on; SixfoldError where the file has become shorter or unreadable."""
        try:
            with self._descriptor(file) as descriptor:
                done = 0
                while done < len(buffer):  # one call moves at most 2 GiB
                    count = os.preadv(descriptor, [buffer[done:]], offset + done)
                    if count == 0:
                        raise SixfoldError(
                            f"{file} ended early while it was read", "leave the checkpoint unchanged while it is in use"
                        )
                    done += count
        except OSError as error:
            raise SixfoldError(
                f"cannot read {self.folder / file}: {error.strerror}", "check the disk and the file's permissions"
            ) from error

    @contextmanager
    def _descriptor(self, file: str) -> Iterator[int]:
        with self._lock:
            if file not in self._open:
                self._close_idle()
                self._open[file] = _open_sequential(self.folder / file)
            self._users[file] = self._users.get(file, 0) + 1
            descriptor = self._open[file]
        try:
            yield descriptor
        finally:
            with self._lock:
                self._users[file] -= 1

    def _close_idle(self) -> None:
        """Makes room for one more, oldest first, sparing those being read."""
        for file in list(self._open):
            if len(self._open) < MAX_OPEN:
                return
            if not self._users[file]:
                os.close(self._open.pop(file))


def _open_sequential(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return descriptor


def _close_all(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
    descriptors.clear()
