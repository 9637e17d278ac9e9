"""What is stored of several Linears of one shape and scheme, put together as if it were one with all their rows.

So a layer's experts are dequantized, and compared, at once: on a GPU one of them is too little work for a kernel.
"""

from collections.abc import Iterable, Sequence

import torch

from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES
from verification.reading.declared import AWQ, COMPRESSED_TENSORS, MODELOPT, Scheme
from verification.reading.folder import Folder
from verification.reading.stack import gathered
from verification.reading.stored_codes import Parts

_INPUTS = ("input_scale", "input_global_scale")
_BY_ROWS = ("weight", "weight_packed", "weight_scale", "weight_scale_inv")
_OF_ALL = ("weight_global_scale", "weight_scale_2")


def can_be_stacked(scheme: Scheme, suffixes: set[str], rows: int) -> bool:
    """rows: of one Linear. False where rows of two would share a scale or a word, or columns stand in an order."""
    strategy = scheme.weights.get("strategy")
    if scheme.method == AWQ:
        return suffixes - {"bias"} == {"qweight", "qzeros", "scales"}
    if not suffixes <= {*_BY_ROWS, *_OF_ALL, *_INPUTS, "weight_shape", "weight_zero_point", "bias"}:
        return False
    if scheme.method == MODELOPT:
        return "weight_scale_2" in suffixes
    if scheme.method != COMPRESSED_TENSORS:
        block = scheme.weights.get("weight_block_size")
    else:
        if strategy == "tensor":
            return False
        if "weight_zero_point" in suffixes:
            bits = int(scheme.weights.get("num_bits") or 8)
            return "weight_packed" in suffixes and rows % (32 // bits) == 0
        block = (scheme.weights.get("block_structure") or (128, 128)) if strategy == "block" else (1, 1)
    return bool(block) and rows % int(block[0]) == 0  # type: ignore[index]


def stacked_parts(
    scheme: Scheme, folder: Folder, modules: Sequence[str], suffixes: Iterable[str], rows: int, device: torch.device
) -> Parts:
    """Of all modules as one Linear, on `device`. rows: of one Linear. Raises KeyError, RuntimeError or ValueError where
    their parts do not fit together, or cannot be read."""
    found: dict[str, torch.Tensor] = {}
    for suffix in suffixes:
        if suffix in (*_INPUTS, "bias"):
            continue
        names = [f"{module}.{suffix}" for module in modules]
        first = folder.tensors[names[0]]
        if suffix == "weight_shape":
            found[suffix] = torch.tensor([rows * len(modules), int(folder.read(names[0])[1])])
            continue
        if any((one.shape, one.dtype) != (first.shape, first.dtype) for one in map(folder.tensors.__getitem__, names)):
            raise ValueError(f"{suffix} of one Linear is not as that of another")
        held = gathered(names, first.shape, TORCH_DTYPES[first.dtype], folder.read_into, device)
        if suffix in _OF_ALL:
            found[suffix] = held.reshape(len(modules)).repeat_interleave(rows).unsqueeze(1)
        elif scheme.method == AWQ:
            found[suffix] = held.movedim(0, 1).flatten(1, 2)
        else:
            found[suffix] = held.flatten(0, 1)
    return found
