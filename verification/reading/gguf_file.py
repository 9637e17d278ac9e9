"""A GGUF file's keys and tensor list, parsed strictly, and the bytes of its tensors read a few at a time.

Layout (ggml's docs/gguf.md, version 3, little-endian): "GGUF", version, number of tensors, number of keys; the keys,
each with its type; the tensors, each with name, dimensions (fastest first), type and offset from the start of the data,
which begins at the next multiple of `general.alignment`.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sixfold.checkpoint.positional_reads import WeightFolder
from sixfold.errors import SixfoldError

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 30
_AGAIN = "copy or download the file again"


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
class Gguf:
    """One file, or the parts of a split one. keys: of the first. parts: the others' keys (split.* alone)."""

    path: Path
    files: tuple[str, ...]
    keys: Mapping[str, Any]
    parts: tuple[Mapping[str, Any], ...]
    tensors: Mapping[str, GgufTensor]
    doubles: tuple[str, ...]
    sizes: Mapping[str, int]
    weights: WeightFolder = field(repr=False, compare=False)

    @property
    def arch(self) -> str:
        return str(self.keys.get("general.architecture", ""))

    def key(self, name: str) -> Any:
        """A key of the architecture: `key("block_count")`; None where it is missing."""
        return self.keys.get(f"{self.arch}.{name}")

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Stored bytes of rows [start, stop) along the first dimension: uint8 [rows, bytes]."""
        tensor = self.tensors[name]
        count = tensor.shape[0] if tensor.shape else 1
        stop = count if stop is None else stop
        row = tensor.nbytes // count
        data = self.weights.read(tensor.file, tensor.offset + start * row, (stop - start) * row)
        return np.frombuffer(data, np.uint8).reshape(stop - start, row)


def open_gguf(path: Path) -> Gguf:
    """`path`: the file, or the first part of a split one. Raises SixfoldError where a header does not hold."""
    if not path.is_file():
        raise SixfoldError(f"there is no file {path}", "check the path")
    keys, tensors, data, size = _parse(path)
    count = keys.get("split.count")
    names = [path.name]
    if isinstance(count, int) and count > 1:
        stem, _, rest = path.name.partition("-00001-of-")
        if not rest:
            raise SixfoldError(f"{path.name} is not the first part of a split model", "give the -00001-of- part")
        names = [f"{stem}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]
    others: list[Mapping[str, Any]] = []
    found: dict[str, GgufTensor] = {}
    doubles: list[str] = []
    sizes: dict[str, int] = {}
    for name in names:
        if name != path.name:
            if not (path.parent / name).is_file():
                raise SixfoldError(f"{name} is missing beside {path.name}", "copy all parts of the model")
            part_keys, tensors, data, size = _parse(path.parent / name)
            others.append(part_keys)
        sizes[name] = size
        for tensor in _placed(name, tensors, data, size):
            doubles += [tensor.name] if tensor.name in found else []
            found.setdefault(tensor.name, tensor)
    return Gguf(path, tuple(names), keys, tuple(others), found, tuple(doubles), sizes, WeightFolder(path.parent))


_Info = tuple[str, tuple[int, ...], int, int]


def _parse(path: Path) -> tuple[dict[str, Any], list[_Info], int, int]:
    """(keys, tensor infos, where the data begins, size of the file)."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise SixfoldError(f"{path.name} is not a GGUF file: it does not begin with GGUF", _AGAIN)
            version, tensor_count, key_count = struct.unpack("<IQQ", _exactly(file, 20))
            if version not in (2, 3):
                raise SixfoldError(f"{path.name} is GGUF version {version}, or of the other byte order", _AGAIN)
            if tensor_count > size or key_count > size:
                raise SixfoldError(f"{path.name} has a damaged header", _AGAIN)
            keys: dict[str, Any] = {}
            for _ in range(key_count):
                name = _string(file)
                if name in keys:
                    raise SixfoldError(f"{path.name} has the key {name} twice", _AGAIN)
                keys[name] = _value(file, _number(file, "<I"))
            infos = [_info(file) for _ in range(tensor_count)]
            alignment = keys.get("general.alignment", 32)
            if not isinstance(alignment, int) or alignment < 1:
                raise SixfoldError(f"{path.name} has a general.alignment of {alignment}", _AGAIN)
            data = -(-file.tell() // alignment) * alignment
    except (struct.error, EOFError, UnicodeDecodeError, OverflowError):
        raise SixfoldError(f"{path.name} is truncated or damaged in its header", _AGAIN) from None
    except OSError as error:
        raise SixfoldError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None
    return keys, infos, data, size


def _placed(file: str, infos: list[_Info], data: int, size: int) -> list[GgufTensor]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    placed = []
    for name, shape, qtype, offset in infos:
        try:
            block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(qtype)]
        except ValueError:
            raise SixfoldError(f"{name} in {file} has type {qtype}, which ggml does not define", _AGAIN) from None
        if shape and shape[-1] % block:
            raise SixfoldError(f"{name} in {file} has rows of {shape[-1]}, no multiple of {block}", _AGAIN)
        total = prod(shape) // block * nbytes
        if data + offset + total > size:
            raise SixfoldError(
                f"{file} is truncated: {name} ends at byte {data + offset + total}, the file has {size}", _AGAIN
            )
        placed.append(GgufTensor(name, shape, qtype, file, data + offset, total))
    ordered = sorted(placed, key=lambda t: t.offset)
    for one, other in pairwise(ordered):
        if one.offset + one.nbytes > other.offset:
            raise SixfoldError(f"{other.name} overlaps {one.name} in {file}", _AGAIN)
    return placed


def _exactly(file: BinaryIO, count: int) -> bytes:
    if not 0 <= count <= _LONGEST:
        raise EOFError
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _number(file: BinaryIO, code: str) -> Any:
    return struct.unpack(code, _exactly(file, struct.calcsize(code)))[0]


def _string(file: BinaryIO) -> str:
    return _exactly(file, _number(file, "<Q")).decode("utf-8", "surrogateescape")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if count > _LONGEST:
            raise EOFError
        if inner in _SCALARS:
            code = _SCALARS[inner]
            size = struct.calcsize(code)
            return list(struct.unpack(f"<{count}{code[1]}", _exactly(file, count * size)))
        return [_value(file, inner) for _ in range(count)]
    if kind not in _SCALARS:
        raise EOFError
    return _number(file, _SCALARS[kind])


def _info(file: BinaryIO) -> _Info:
    name = _string(file)
    dimensions = _number(file, "<I")
    if dimensions > 4:
        raise EOFError
    shape = tuple(reversed(struct.unpack(f"<{dimensions}Q", _exactly(file, 8 * dimensions))))
    qtype, offset = struct.unpack("<IQ", _exactly(file, 12))
    return name, shape, qtype, offset
