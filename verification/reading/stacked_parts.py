"""What is stored of several Linears of one shape and scheme, put together as if it were one with all their rows.

So a layer's experts are dequantized, and compared, at once: on a GPU one of them is too little work for a kernel.
"""

from collections.abc import Sequence

import torch

from verification.reading.declared import AWQ, COMPRESSED_TENSORS, MODELOPT, Scheme
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


def stacked_parts(scheme: Scheme, parts: Sequence[Parts], rows: int, device: torch.device) -> Parts:
    """Of all of them as one Linear, on `device`. rows: of one Linear. Raises KeyError, RuntimeError or ValueError where
    their parts do not fit together."""
    found: dict[str, torch.Tensor] = {}
    for suffix in parts[0]:
        each = [part[suffix] for part in parts]
        if suffix in _INPUTS:
            continue
        if suffix == "weight_shape":
            found[suffix] = torch.tensor([rows * len(parts), int(each[0][1])])
        elif suffix in _OF_ALL:
            found[suffix] = torch.cat([one.reshape(1) for one in each]).to(device).repeat_interleave(rows).unsqueeze(1)
        elif any(one.shape != each[0].shape or one.dtype != each[0].dtype for one in each):
            raise ValueError(f"{suffix} of one Linear is not as that of another")
        else:
            # bytes: not every type of eight bits can be put together
            dim = 1 if scheme.method == AWQ else 0
            width = each[0].element_size()
            raw = [one.view(torch.uint8) if width == 1 else one for one in each]
            found[suffix] = torch.cat([one.to(device) for one in raw], dim).view(each[0].dtype)
    return found
