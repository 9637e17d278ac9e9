"""A GGUF file, or the parts of a split one: keys, tensors, and the bytes of tensors read a few at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sixfold.boundary.gguf_header import GgufTensor, read_gguf_header
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.errors import SixfoldError


@dataclass(frozen=True)
class Gguf:
    """One file, or the parts of a split one. keys, types: of the first (see GgufHeader). parts: the others' keys
    (split.* alone). data: where each file's tensors begin."""

    path: Path
    files: tuple[str, ...]
    keys: Mapping[str, Any]
    types: Mapping[str, str]
    parts: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, GgufTensor]
    doubles: tuple[str, ...]
    sizes: Mapping[str, int]
    data: Mapping[str, int]
    weights: WeightFolder = field(repr=False, compare=False)

    @property
    def arch(self) -> str:
        return str(self.keys.get("general.architecture", ""))

    def key(self, name: str) -> Any:
        """A key of the architecture: `key("block_count")`; None where it is missing."""
        return self.keys.get(f"{self.arch}.{name}")

    def cut(self, rows: Mapping[str, int]) -> "Gguf":
        """With so many rows of these tensors, where they have more."""
        fewer = {name: self.tensors[name] for name in rows if name in self.tensors}
        fewer = {
            name: replace(tensor, shape=(rows[name], *tensor.shape[1:]), nbytes=tensor.nbytes // count * rows[name])
            for name, tensor in fewer.items()
            if (count := tensor.shape[0]) > rows[name]
        }
        return replace(self, tensors={**self.tensors, **fewer}) if fewer else self

    def parted(self, parts: Mapping[str, int]) -> "Gguf":
        """With so many tensors, numbered before ".weight", in place of each of these, whose rows they share out."""
        made = {}
        for name in parts.keys() & self.tensors.keys():
            whole, count = self.tensors[name], parts[name]
            shape, nbytes = (whole.shape[0] // count, *whole.shape[1:]), whole.nbytes // count
            for number in range(count):
                own = name.replace(".weight", f".{number}.weight")
                made[own] = replace(whole, name=own, shape=shape, nbytes=nbytes, offset=whole.offset + number * nbytes)
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in parts}
        return replace(self, tensors={**kept, **made}) if made else self

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Stored bytes of rows [start, stop) along the first dimension: uint8 [rows, bytes]."""
        return self.stored(name, start, stop).numpy()

    def stored(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """The same as a tensor."""
        tensor = self.tensors[name]
        count = tensor.shape[0] if tensor.shape else 1
        stop = count if stop is None else stop
        row = tensor.nbytes // count
        data = torch.empty((stop - start, row), dtype=torch.uint8, pin_memory=self.weights.pinned)
        self.read_into(name, start, data)
        return data

    def read_into(self, name: str, start: int, out: torch.Tensor) -> None:
        """Stored bytes from a row on, as many as `out` holds: uint8, contiguous, of the CPU."""
        tensor = self.tensors[name]
        row = tensor.nbytes // (tensor.shape[0] if tensor.shape else 1)
        self.weights.read_into(tensor.file, tensor.offset + start * row, out.flatten().numpy().data)


def open_gguf(path: Path) -> Gguf:
    """`path`: the file, or the first part of a split one. Raises SixfoldError where a header does not hold."""
    first = read_gguf_header(path)
    count = first.keys.get("split.count")
    names = [path.name]
    if isinstance(count, int) and count > 1:
        stem, _, rest = path.name.partition("-00001-of-")
        if not rest or count > _PARTS:
            raise SixfoldError(f"{path.name} is not the first part of a split model", "give the -00001-of- part")
        names = [f"{stem}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]
    headers = {path.name: first}
    for name in names:
        if not (path.parent / name).is_file():
            raise SixfoldError(f"{name} is missing beside {path.name}", "copy all parts of the model")
        headers[name] = first if name == path.name else read_gguf_header(path.parent / name)
    found: dict[str, GgufTensor] = {}
    doubles: list[str] = []
    for name in names:
        for tensor in headers[name].tensors:
            doubles += [tensor.name] if tensor.name in found else []
            found.setdefault(tensor.name, tensor)
    return Gguf(
        path,
        tuple(names),
        first.keys,
        first.types,
        tuple(headers[name].keys for name in names if name != path.name),
        found,
        tuple(doubles),
        {name: headers[name].size for name in names},
        {name: headers[name].data for name in names},
        WeightFolder(path.parent, pinned=torch.cuda.is_available()),
    )


_PARTS = 99999
