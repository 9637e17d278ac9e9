"""How a checkpoint stores its tensors, and how each is read as plain BF16, F16 or F32."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sixfold.errors import SixfoldError
from sixfold.positional_reads import WeightFolder
from sixfold.safetensors_header import StoredTensor

PLAIN_DTYPES = ("BF16", "F16", "F32", "I64", "BOOL")
"""Weights, and the integer and boolean tables that some models keep beside them (copied as they are)."""


class StoredAs(Protocol):
    """A logical tensor: what exporters see, and how it comes from the stored ones."""

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) along the first dimension (0 to 1 for a 0-d tensor), of `dtype`."""
        ...


@dataclass(frozen=True)
class Plain:
    stored: StoredTensor
    kind = "plain"

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def dtype(self) -> str:
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def read(self, folder: WeightFolder, start: int, stop: int) -> torch.Tensor:
        return folder.rows(self.stored, start, stop)


def logical_tensors(stored: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> dict[str, StoredAs]:
    found: dict[str, StoredAs] = {}
    for name, tensor in stored.items():
        if tensor.dtype not in PLAIN_DTYPES:
            raise SixfoldError(f"{name} is {tensor.dtype}", "save it as BF16, F16 or F32")
        found[name] = Plain(tensor)
    return found
