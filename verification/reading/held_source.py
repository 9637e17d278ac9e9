"""The source's tensors, those of one layer read once for all that compare with them or round them."""

from collections.abc import Callable, Collection, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch

from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source

_READERS = 8

_ROOM = 256 << 20
"""Bytes on the processor for what is made once for all variants of a layer; on a GPU an eighth of its memory."""


def names_by_layer(source: Source) -> dict[int | None, list[str]]:
    """The source's tensors by the decoder layer whose Linears and norms they are; None for all others."""
    layers: dict[str, int | None] = {linear.weight: linear.layer for linear in source.architecture.linears}
    layers |= {norm.weight: norm.layer for norm in source.architecture.norms}
    found: dict[int | None, list[str]] = {}
    for name in source.checkpoint.tensors:
        found.setdefault(layers.get(name), []).append(name)
    return found


class HeldSource:
    """device: where tensors are given. Nothing is held until `hold` is called."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self.source = source
        self.device = device
        self.layers = names_by_layer(source)
        self._layer: int | None = -1
        self._held: dict[str, torch.Tensor] = {}
        self._made: tuple[tuple[str, Hashable] | None, torch.Tensor] = None, torch.empty(0)
        self._shared: dict[Hashable, torch.Tensor] = {}

    def hold(self, layer: int | None) -> None:
        """A decoder layer's tensors, None for those outside of them, in place of those that were held before."""
        if layer == self._layer:
            return
        self._shared.clear()
        self._held, names = {}, self.layers.get(layer, [])
        with ThreadPoolExecutor(_READERS) as readers:  # which read; what moves is in the order of this thread's work
            for name, read in zip(names, readers.map(self._whole, names), strict=True):
                self._held[name] = read.to(self.device, non_blocking=True)
        self._layer = layer

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop) along the first dimension, in the tensor's own dtype; a scalar is one row."""
        held = self._held.get(name)
        if held is None:
            return self._read(name, start, stop)
        return held[start:stop] if held.dim() else held

    def made_last(self, key: tuple[str, Hashable], make: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `make` gives of the tensor that `key` begins with, kept until something else is asked for: embeddings of
        several variants in a row are rounded to the same type, when runs begin and when they end."""
        known, made = self._made
        if known != key:
            made = make(self.read(key[0]))
            self._made = key, made
        return made

    def once(self, key: Hashable, make: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """What `make` gives, kept for the other variants for as long as the layer is held and there is room."""
        if key in self._shared:
            return self._shared[key]
        made = make()
        if made is not None and made.nbytes + sum(kept.nbytes for kept in self._shared.values()) <= self._room:
            self._shared[key] = made
        return made

    @cached_property
    def _room(self) -> int:
        on_cpu = self.device.type == "cpu"
        return _ROOM if on_cpu else torch.cuda.get_device_properties(self.device).total_memory // 8

    def _whole(self, name: str) -> torch.Tensor:
        """On the CPU; for a GPU in pinned memory, which PyTorch keeps for the next."""
        if self.device.type == "cpu":
            return self._read(name)
        tensor = self.source.checkpoint.tensors[name]
        read = torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype], pin_memory=True)
        self.source.checkpoint.read_into(name, read)
        return read

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        shape = self.source.checkpoint.tensors[name].shape
        stop = (shape[0] if shape else 1) if stop is None else stop
        return self.source.checkpoint.read(TensorSlice(name, start, stop)).to(self.device)


class SourceWeights:
    """The source's own weights, see verification.reading.weights.Weights."""

    def __init__(self, held: HeldSource) -> None:
        self._held = held
        self._tensors = held.source.checkpoint.tensors

    def names(self) -> Iterable[str]:
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def encoding(self, name: str) -> str:
        return ""

    def dtype(self, name: str) -> str:
        return self._tensors[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._held.read(name, start, stop).float().cpu()

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        return self._held.read(name).to(device)

    def prepare(self, layer: int | None, wanted: Collection[str]) -> None:
        self._held.hold(layer)

    def is_source(self, layer: int | None) -> bool:
        return True
