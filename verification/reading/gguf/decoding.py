"""Tensors of a GGUF file as float32, and as codes and scales of their blocks."""

from collections.abc import Callable

import numpy as np
import torch

from verification.reading.ggml_types import BLOCK_TYPES, Decoded, decoded
from verification.reading.gguf_file import Gguf
from verification.reading.stored_codes import Codes

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32}

Arranged = Callable[[torch.Tensor], torch.Tensor]
"""float32 [rows, columns] as the file has them -> as the source has them."""


def decoded_blocks(
    file: Gguf, gguf_name: str, start: int = 0, stop: int | None = None, *, device: torch.device
) -> Decoded | None:
    """None of types of which no blocks are known here."""
    tensor = file.tensors[gguf_name]
    if tensor.type_name not in BLOCK_TYPES:
        return None
    data = file.stored(gguf_name, start, stop).to(device)
    block = BLOCK_TYPES[tensor.type_name].nbytes
    if not tensor.shape or data.numel() % block:
        raise ValueError(f"{gguf_name} is no blocks of {tensor.type_name}")
    return of_width(decoded(tensor.type_name, data.reshape(1, -1)), tensor.shape[-1])


def floats(
    file: Gguf, gguf_name: str, start: int = 0, stop: int | None = None, *, device: torch.device
) -> torch.Tensor:
    """float32 [rows, ...], of rows along the first dimension from `start` to before `stop`."""
    tensor = file.tensors[gguf_name]
    held = decoded_blocks(file, gguf_name, start, stop, device=device)
    if held is not None:
        return held.values.reshape(-1, *tensor.shape[1:])
    data = file.stored(gguf_name, start, stop)
    shape = (len(data), *tensor.shape[1:]) if tensor.shape else ()
    plain = PLAIN.get(tensor.type_name)
    if plain is not None:
        return data.flatten().view(plain).reshape(shape).to(device).float()
    return _by_gguf_py(data, tensor.qtype).reshape(shape).to(device)


def as_it_is(held: torch.Tensor) -> torch.Tensor:
    return held


def of_width(held: Decoded, columns: int) -> Decoded:
    """Of rows of so many columns, whatever it was decoded as."""
    groups = columns // held.numbers.shape[-1]
    whole = (x if x is None else x.reshape(-1, groups, x.shape[-1]) for x in (held.numbers, held.scale, held.base))
    return Decoded(*whole)  # type: ignore[arg-type]


def codes_of(held: Decoded, kind: str, arranged: Arranged) -> Codes | None:
    numbers = BLOCK_TYPES[kind].numbers
    if numbers is None:
        return None
    width = held.numbers.shape[-1]

    def spread(of_groups: torch.Tensor) -> torch.Tensor:
        return arranged(of_groups.expand(-1, -1, width).flatten(1))

    base = torch.zeros(1, device=held.scale.device) if held.base is None else spread(held.base)
    grid = torch.tensor(numbers, dtype=torch.float32)
    return Codes(arranged(held.numbers.flatten(1)), grid, spread(held.scale), base)


def _by_gguf_py(data: torch.Tensor, qtype: int) -> torch.Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(data.numpy(), GGMLQuantizationType(qtype))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).copy())
