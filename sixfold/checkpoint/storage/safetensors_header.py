"""The header of a safetensors file: parsed strictly, with absolute offsets, and written.

Layout (safetensors' specification): 8 bytes little-endian length N, N bytes of JSON padded with spaces, then the data.
Data offsets in the JSON count from the end of the header, leave no holes and do not overlap.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError

MAX_HEADER = 100_000_000
"""safetensors itself refuses longer ones."""

DTYPE_BITS: Mapping[str, int] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip
"""What of DTYPE_BITS torch can hold element by element."""

DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}

_DOWNLOAD_AGAIN = "download or copy the file again"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as its file holds it. offset: absolute position of its first byte in `file`, a name in the folder."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class FileHeader:
    """raw: every byte before the data. size: of the whole file. tensors: in the order of their offsets."""

    file: str
    raw: bytes
    size: int
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]


def tensor_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this safetensors dtype (KeyError where unknown); sub-byte types are packed."""
    return -(-math.prod(shape) * DTYPE_BITS[dtype] // 8)


def header_length(file: str, first: bytes, size: int) -> int:
    """Bytes before the data, from the first bytes of a file (at least 8, where it has as many)."""
    if first.startswith(b"version https://git-lfs"):
        raise SixfoldError(f"{file} is a git-lfs pointer, not weights", "run `git lfs pull` in the folder it came from")
    if size < 8 or len(first) < 8:
        raise SixfoldError(f"{file} is truncated: {size} bytes do not hold a safetensors header", _DOWNLOAD_AGAIN)
    length = int.from_bytes(first[:8], "little")
    if length > MAX_HEADER or (len(first) > 8 and first[8:9] != b"{"):
        raise SixfoldError(f"{file} does not begin with a safetensors header", _DOWNLOAD_AGAIN)
    if 8 + length > size:
        raise SixfoldError(
            f"{file} is truncated: its header alone is {8 + length} bytes, the file has {size}", _DOWNLOAD_AGAIN
        )
    return 8 + length


def parse_header(file: str, raw: bytes, size: int) -> FileHeader:
    """The header of `file` from every byte before its data; SixfoldError wherever safetensors' rules do not hold."""
    try:
        entries = parse_json(raw[8:], "that", _unique_keys)
    except SixfoldError as error:
        raise SixfoldError(f"{file} has a safetensors header {error.what}", _DOWNLOAD_AGAIN) from None
    if not isinstance(entries, dict):
        raise SixfoldError(f"{file} has a safetensors header that is not a JSON object", _DOWNLOAD_AGAIN)
    metadata = entries.pop("__metadata__", {})
    tensors = sorted((_stored(file, name, entry, len(raw)) for name, entry in entries.items()), key=_place)
    _check_places(file, tensors, len(raw), size)
    return FileHeader(file, raw, size, tuple(tensors), metadata if isinstance(metadata, dict) else {})


def read_header(folder: Path, file: str) -> FileHeader:
    """The header of a file inside `folder`, reading nothing else of it."""
    path = folder / file
    size = path.stat().st_size
    with path.open("rb") as f:
        raw = f.read(64)
        length = header_length(file, raw, size)
        raw += f.read(max(length - len(raw), 0))
    return parse_header(file, raw[:length], size)


def write_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Every byte before the data for (name, dtype, shape) laid out one after the other, padded to a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, dtype, shape in tensors:
        end = place + tensor_nbytes(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} twice")
    return found


def _place(tensor: StoredTensor) -> tuple[int, int, str]:
    return tensor.offset, tensor.nbytes, tensor.name


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stored(file: str, name: str, entry: object, data: int) -> StoredTensor:
    """One entry of the JSON; `data` is where the data begins."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise SixfoldError(f"{file} has a malformed safetensors header: entry {name}", _DOWNLOAD_AGAIN)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if (
        not (isinstance(shape, list) and all(map(_is_count, shape)))
        or not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets)))
        or not isinstance(dtype, str)
    ):
        raise SixfoldError(f"{file} has a malformed safetensors header: entry {name}", _DOWNLOAD_AGAIN)
    if dtype not in DTYPE_BITS:
        raise SixfoldError(
            f"{file} stores {name} as {dtype}, a type that safetensors does not define",
            "save it as BF16, F16 or F32",
        )
    nbytes = tensor_nbytes(dtype, tuple(shape))
    if offsets[1] - offsets[0] != nbytes:
        raise SixfoldError(
            f"{file} gives {name} {offsets[1] - offsets[0]} bytes, but {dtype} {shape} takes {nbytes}",
            _DOWNLOAD_AGAIN,
        )
    return StoredTensor(name, dtype, tuple(shape), file, data + offsets[0], nbytes)


def _check_places(file: str, tensors: list[StoredTensor], data: int, size: int) -> None:
    """The tensors must fill the file from `data` to `size`, each beginning where the one before it ends."""
    place, before = data, "the header"
    for tensor in tensors:
        if tensor.offset != place:
            wrong = "overlaps" if tensor.offset < place else "leaves a hole after"
            raise SixfoldError(f"{file} has wrong offsets: {tensor.name} {wrong} {before}", _DOWNLOAD_AGAIN)
        place, before = place + tensor.nbytes, tensor.name
    if size < place:
        raise SixfoldError(f"{file} is truncated: {size} bytes of {place}", _DOWNLOAD_AGAIN)
    if size > place:
        raise SixfoldError(f"{file} has {size - place} bytes after its last tensor", _DOWNLOAD_AGAIN)
