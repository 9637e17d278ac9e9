"""A safetensors file of a few tensors held in memory, written under exactly the name that is given."""

from collections.abc import Mapping
from pathlib import Path

import torch

from sixfold.checkpoint.storage.safetensors_header import DTYPE_BITS, TORCH_DTYPES, write_header

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """tensors: of any dtype of TORCH_DTYPES and any device.

    Not by safetensors.save_file: that writes beside `path` under a name of its own, which a kill leaves behind and
    nothing knows, and has a full disk raise an error that is no OSError.

    Raises OSError.
    """
    # Wide elements first, as safetensors has them, so that each lies at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-DTYPE_BITS[_NAMES[tensors[name].dtype]], name))
    header = write_header(
        [(name, _NAMES[tensors[name].dtype], tuple(tensors[name].shape)) for name in names], metadata or {}
    )
    with path.open("wb") as file:
        file.write(header)
        for name in names:
            file.write(tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data)
