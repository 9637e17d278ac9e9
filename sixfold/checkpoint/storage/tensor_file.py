"""A safetensors file of tensors that are at hand, written under exactly the name that is given."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import torch

from sixfold.checkpoint.storage.safetensors_header import DTYPE_BITS, DTYPE_NAMES, write_header

_PIECE = 1 << 24
"""Bytes that are written, and hashed beside it, at a time."""


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """tensors: of any dtype of DTYPE_NAMES, on any device, off a GPU a piece at a time. Returns the file's SHA-256,
    taken while it is written.

    Not by safetensors.save_file: that writes beside `path` under a name of its own, which a kill leaves behind and
    nothing knows, and has a full disk raise an error that is no OSError.

    Raises OSError.
    """
    digest = sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as hashing:
        for piece in _pieces(tensors, metadata or {}):
            hashed = hashing.submit(digest.update, piece)
            file.write(piece)
            hashed.result()
    return digest.hexdigest()


def _pieces(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Iterator[memoryview | bytes]:
    # Wide elements first, as safetensors has them, so that each lies at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-DTYPE_BITS[DTYPE_NAMES[tensors[name].dtype]], name))
    yield write_header(
        [(name, DTYPE_NAMES[tensors[name].dtype], tuple(tensors[name].shape)) for name in names], metadata
    )
    held: torch.Tensor | None = None  # pinned, and used again: nobody looks at a piece when the next is asked for
    for name in names:
        data = tensors[name].contiguous().flatten().view(torch.uint8)
        for piece in data.split(_PIECE):
            if piece.is_cuda:
                held = torch.empty(_PIECE, dtype=torch.uint8, pin_memory=True) if held is None else held
                piece = held[: len(piece)].copy_(piece)
            yield piece.numpy().data
