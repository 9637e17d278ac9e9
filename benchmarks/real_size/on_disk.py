"""A drawn checkpoint as files, and files out of the page cache: what reading from a disk adds to every stage."""

import os
import shutil
from pathlib import Path

import torch

from sixfold.checkpoint.carried_files import carried_files
from sixfold.checkpoint.checkpoint import CONFIG
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES, write_header
from sixfold.model.source import Source, open_source


def written(source: Source, folder: Path) -> Source:
    """A drawn checkpoint written to one file in `folder`, and opened as any other."""
    folder.mkdir(parents=True)
    beside = source.checkpoint.folder
    for name in (CONFIG, *carried_files({path.name for path in beside.iterdir()})):
        shutil.copy(beside / name, folder / name)
    checkpoint = source.checkpoint.as_stored
    tensors = [(tensor.name, tensor.dtype, tensor.shape) for tensor in checkpoint.tensors.values()]
    with (folder / "model.safetensors").open("wb") as file:
        file.write(write_header(tensors, {"format": "pt"}))
        for name, dtype, shape in tensors:
            values = torch.empty(shape, dtype=TORCH_DTYPES[dtype])
            checkpoint.read_into(name, values)
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)
    return open_source(folder)


def forget(folder: Path) -> None:
    """All files under it out of the page cache, those first that are not on the disk yet."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
