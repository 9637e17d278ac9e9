"""The source's tensors, those of one layer read once for all that compare with them or round them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source

_READERS = 8


class HeldSource:
    """device: where tensors are given. Nothing is held until `hold` is called."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self.source = source
        self.device = device
        self._held: dict[str, torch.Tensor] = {}

    def hold(self, names: Iterable[str]) -> None:
        """These in place of those that were held before, in their own dtypes."""
        self._held = {}
        names = list(names)
        with ThreadPoolExecutor(_READERS) as readers:
            self._held = dict(zip(names, readers.map(self._read, names), strict=True))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop) along the first dimension, in the tensor's own dtype; a scalar is one row."""
        held = self._held.get(name)
        if held is None:
            return self._read(name, start, stop)
        return held[start:stop] if held.dim() else held

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        shape = self.source.checkpoint.tensors[name].shape
        stop = (shape[0] if shape else 1) if stop is None else stop
        return self.source.checkpoint.read(TensorSlice(name, start, stop)).to(self.device)
