"""A checkpoint on disk or on the Hub, seen as BF16/FP16/FP32 tensors whatever it is stored in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sixfold.plan import TensorSlice


@dataclass(frozen=True)
class SourceTensor:
    """A tensor as exporters see it: dtype is a safetensors name; quantized sources appear as BF16 under one name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint's card says of its past (provenance.yaml beside it, or options). Empty strings where unknown."""

    base_model: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    method: str = ""
    authors: str = ""


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
    fingerprint: str

    def read(self, part: TensorSlice) -> torch.Tensor:
        """Rows [start, stop) of a logical tensor, dequantized if stored quantized; safe to call from many threads."""
        raise NotImplementedError


def open_checkpoint(
    model: str, *, revision: str = "", name: str = "", provenance: Provenance | None = None, headers_only: bool = False
) -> Checkpoint:
    """A folder or a hub id. headers_only: fetch only config, index and headers of a hub id (range requests); `read` then refuses."""
    raise NotImplementedError
