"""A GGUF file's keys and tensor list, parsed strictly.

Layout (ggml's docs/gguf.md, version 3, little-endian): "GGUF", version, number of tensors, number of keys; the keys,
each with its type; the tensors, each with name, dimensions (fastest first), type and offset from the start of the data,
which begins at the next multiple of `general.alignment`. Nothing is reserved that the file is not long enough for.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from sixfold.errors import SixfoldError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_NAMES = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 10: "u64", 11: "i64"}
_NAMES |= {12: "f64", 8: "string"}
_STRING, _ARRAY = 8, 9
_AGAIN = "copy or download the file again"
_LONGEST_NAME = 1 << 12
_PIECE = 1 << 20
"""Bytes of an array of strings that are read at a time."""
_LARGEST = 1 << 48
"""Elements of a tensor: a product of damaged dimensions is larger."""


@dataclass(frozen=True)
class GgufTensor:
    """shape: slowest dimension first. qtype: ggml's number of the type. offset: absolute, in `file`."""

    name: str
    shape: tuple[int, ...]
    qtype: int
    file: str
    offset: int
    nbytes: int

    @property
    def type_name(self) -> str:
        from gguf import GGMLQuantizationType

        return GGMLQuantizationType(self.qtype).name


@dataclass(frozen=True)
class GgufHeader:
    """keys: values as Python has them. types: of each key, such as "u32", "string" or "[f32]". data: where the tensors'
    bytes begin."""

    keys: Mapping[str, Any]
    types: Mapping[str, str]
    tensors: tuple[GgufTensor, ...]
    data: int
    size: int


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises SixfoldError where a header does not hold, or its tensors do not fit into the file."""
    if not path.is_file():
        raise SixfoldError(f"there is no file {path}", "check the path")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            return _parse(path.name, file, size)
    except (struct.error, EOFError, OverflowError, MemoryError):
        raise SixfoldError(f"{path.name} is truncated or damaged in its header", _AGAIN) from None
    except OSError as error:
        raise SixfoldError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None


def _parse(name: str, file: BinaryIO, size: int) -> GgufHeader:
    if file.read(4) != b"GGUF":
        raise SixfoldError(f"{name} is not a GGUF file: it does not begin with GGUF", _AGAIN)
    version, tensor_count, key_count = struct.unpack("<IQQ", _exactly(file, 20, size))
    if version not in (2, 3):
        raise SixfoldError(f"{name} is GGUF version {version}, or of the other byte order", _AGAIN)
    if tensor_count > size or key_count > size:
        raise SixfoldError(f"{name} has a damaged header", _AGAIN)
    keys: dict[str, Any] = {}
    types: dict[str, str] = {}
    for _ in range(key_count):
        key = _string(file, size)
        if key in keys:
            raise SixfoldError(f"{name} has the key {key} twice", _AGAIN)
        types[key], keys[key] = _value(file, size)
    infos = [_info(file, size) for _ in range(tensor_count)]
    alignment = keys.get("general.alignment", 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise SixfoldError(f"{name} has a general.alignment of {alignment}", _AGAIN)
    data = -(-file.tell() // alignment) * alignment
    return GgufHeader(keys, types, _placed(name, infos, data, size), data, size)


_Info = tuple[str, tuple[int, ...], int, int]


def _placed(file: str, infos: list[_Info], data: int, size: int) -> tuple[GgufTensor, ...]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    placed = []
    for name, shape, qtype, offset in infos:
        try:
            block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(qtype)]
        except (ValueError, KeyError):
            raise SixfoldError(f"{name} in {file} has type {qtype}, which ggml does not define", _AGAIN) from None
        count = prod(shape)
        if count > _LARGEST:
            raise SixfoldError(f"{name} in {file} has a shape of {count} elements", _AGAIN)
        if shape and shape[-1] % block:
            raise SixfoldError(f"{name} in {file} has rows of {shape[-1]}, no multiple of {block}", _AGAIN)
        total = count // block * nbytes
        if data + offset + total > size:
            raise SixfoldError(
                f"{file} is truncated: {name} ends at byte {data + offset + total}, the file has {size}", _AGAIN
            )
        placed.append(GgufTensor(name, shape, qtype, file, data + offset, total))
    for one, other in pairwise(sorted(placed, key=lambda t: t.offset)):
        if one.offset + one.nbytes > other.offset:
            raise SixfoldError(f"{other.name} overlaps {one.name} in {file}", _AGAIN)
    return tuple(placed)


def _exactly(file: BinaryIO, count: int, size: int) -> bytes:
    if not 0 <= count <= size - file.tell():
        raise EOFError
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _number(file: BinaryIO, code: str, size: int) -> Any:
    return struct.unpack(code, _exactly(file, struct.calcsize(code), size))[0]


def _string(file: BinaryIO, size: int) -> str:
    """Bytes that are no UTF-8 stay visible as such; nothing that was read here is taken for a valid name then."""
    return _exactly(file, _number(file, "<Q", size), size).decode("utf-8", "backslashreplace")


def _strings(file: BinaryIO, count: int, size: int) -> list[str]:
    """So many, one behind the other: a vocabulary has hundreds of thousands."""
    found: list[str] = []
    begun, at = file.tell(), 0  # where what is held begins in the file, and how much of it is done with
    held = b""
    for _ in range(count):
        stop = at + 8
        length = int.from_bytes(held[at:stop], "little") if stop <= len(held) else 0
        if stop + length > len(held):
            begun, at, stop = begun + at, 0, 8
            file.seek(begun)
            held = _exactly(file, min(_PIECE, size - begun), size)
            length = int.from_bytes(held[:8], "little")
            if stop + length > len(held):
                if stop + length > size - begun:
                    raise EOFError
                held += _exactly(file, stop + length - len(held), size)
        at = stop + length
        found.append(held[stop:at].decode("utf-8", "backslashreplace"))
    file.seek(begun + at)
    return found


def _value(file: BinaryIO, size: int) -> tuple[str, Any]:
    """(type, value). An array of arrays is refused, as ggml does."""
    kind = _number(file, "<I", size)
    if kind == _STRING:
        return "string", _string(file, size)
    if kind == _ARRAY:
        inner, count = _number(file, "<I", size), _number(file, "<Q", size)
        if inner == _STRING:
            if 8 * count > size - file.tell():
                raise EOFError
            return "[string]", _strings(file, count, size)
        if inner not in _SCALARS:
            raise EOFError
        code = _SCALARS[inner]
        data = _exactly(file, count * struct.calcsize(code), size)
        return f"[{_NAMES[inner]}]", list(struct.unpack(f"<{count}{code[1]}", data))
    if kind not in _SCALARS:
        raise EOFError
    return _NAMES[kind], _number(file, _SCALARS[kind], size)


def _info(file: BinaryIO, size: int) -> _Info:
    name = _string(file, size)
    dimensions = _number(file, "<I", size)
    if dimensions > 4 or len(name) > _LONGEST_NAME:
        raise EOFError
    shape = tuple(reversed(struct.unpack(f"<{dimensions}Q", _exactly(file, 8 * dimensions, size))))
    qtype, offset = struct.unpack("<IQ", _exactly(file, 12, size))
    return name, shape, qtype, offset
