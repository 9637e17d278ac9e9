"""A checkpoint on disk or on the Hub, seen as BF16/FP16/FP32 tensors whatever it is stored in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from sixfold.errors import SixfoldError
from sixfold.extras import carried_files
from sixfold.fingerprint import folder_fingerprint
from sixfold.plan import TensorSlice
from sixfold.positional_reads import WeightFolder
from sixfold.provenance import Provenance, read_provenance
from sixfold.safetensors_header import FileHeader, read_header, tensor_nbytes
from sixfold.source_encodings import StoredAs, logical_tensors
from sixfold.weight_files import INDEX, collect_tensors, parse_index, weight_files

__all__ = ["Checkpoint", "Provenance", "SourceTensor", "open_checkpoint"]


@dataclass(frozen=True)
class SourceTensor:
    """A tensor as exporters see it: dtype is a safetensors name; quantized sources appear as BF16 under one name.

    stored_as: "plain", or what it is dequantized from as it is read ("fp8", "mxfp4").
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    stored_as: str = "plain"


class Contents(Protocol):
    """Where a checkpoint's bytes come from."""

    def read(self, part: TensorSlice) -> torch.Tensor: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Checkpoint:
    """name: for output folders. location: as the user gave it. revision: hub commit, "" for a folder.
    tensors: logical tensors by name, in the order of files and offsets. extras: other files worth carrying on
    (tokenizer, chat template, generation config, LICENSE), relative names."""

    name: str
    location: str
    folder: Path
    revision: str
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor]
    extras: tuple[str, ...]
    provenance: Provenance
    contents: Contents = field(repr=False, compare=False)

    def read(self, part: TensorSlice) -> torch.Tensor:
        """Rows [start, stop) of a logical tensor, dequantized if stored quantized; safe to call from many threads."""
        return self.contents.read(part)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of what the checkpoint is; see sixfold.fingerprint. Computed on first use: it samples every tensor."""
        return self.contents.fingerprint()


@dataclass(frozen=True)
class FolderContents:
    folder: WeightFolder
    headers: tuple[FileHeader, ...]
    logical: Mapping[str, StoredAs]
    extras: tuple[str, ...]

    def read(self, part: TensorSlice) -> torch.Tensor:
        tensor = self.logical.get(part.name)
        if tensor is None:
            raise SixfoldError(
                f"{self.folder.folder} has no tensor {part.name}", "run `sixfold inspect` to see what it has"
            )
        rows = tensor.shape[0] if tensor.shape else 1
        if not 0 <= part.start <= part.stop <= rows:
            raise SixfoldError(f"{part.name} has {rows} rows, {part.start} to {part.stop} was asked for")
        return tensor.read(self.folder, part.start, part.stop)

    def fingerprint(self) -> str:
        return folder_fingerprint(self.folder, self.headers, self.extras)


def open_checkpoint(
    model: str, *, revision: str = "", name: str = "", provenance: Provenance | None = None, headers_only: bool = False
) -> Checkpoint:
    """A folder or a hub id. headers_only: fetch only config, index and headers of a hub id (range requests); `read` then refuses."""
    return open_folder(Path(model).expanduser(), location=model, revision="", name=name, provenance=provenance)


def open_folder(folder: Path, *, location: str, revision: str, name: str, provenance: Provenance | None) -> Checkpoint:
    if not folder.is_dir():
        raise SixfoldError(f"there is no folder {folder}", "check the path")
    where = str(folder)
    config = parse_config(where, (folder / "config.json").read_bytes())
    names = frozenset(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    index = parse_index(where, (folder / INDEX).read_bytes()) if INDEX in names else None
    headers = tuple(read_header(folder, file) for file in weight_files(where, names, index))
    logical = logical_tensors(collect_tensors(where, headers, index), config, where)
    extras = carried_files(names)
    past = read_provenance(folder, provenance)
    return Checkpoint(
        name=name or past.name or folder.absolute().name,
        location=location,
        folder=folder,
        revision=revision,
        config=config,
        tensors=source_tensors(logical),
        extras=extras,
        provenance=past,
        contents=FolderContents(WeightFolder(folder), headers, logical, extras),
    )


def parse_config(where: str, text: bytes) -> dict[str, Any]:
    return json.loads(text)


def source_tensors(logical: Mapping[str, StoredAs]) -> dict[str, SourceTensor]:
    return {
        name: SourceTensor(name, t.dtype, t.shape, tensor_nbytes(t.dtype, t.shape), t.kind)
        for name, t in logical.items()
    }
