"""Importance matrices that llama.cpp's llama-imatrix wrote: what the file contains.

The format is GGUF (since July 2025): `imatrix.datasets`, `imatrix.chunk_count` and `imatrix.chunk_size`, and for each
weight `<name>.in_sum2` and `<name>.counts` in float32. The older binary format holds for each weight, little-endian,
the length of its name, the name, a number of calls, a number of values and float32 values, which are means times calls;
after them the number of chunks and the name of the dataset. See llama.cpp's common/imatrix-loader.cpp.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sixfold.artifact.workspace import sha256_of
from sixfold.boundary.gguf_header import GgufTensor, read_gguf_header
from sixfold.errors import SixfoldError

_MAGIC = b"GGUF"
_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class MatrixEntry:
    """Of one weight. sums: float32, flat, matrix after matrix. counts: float32 [matrices], or [1] for all together."""

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]


@dataclass(frozen=True)
class ImportanceMatrix:
    """entries: by GGUF name, read from the file as they are used. format: "gguf", whose counts are tokens, or "dat".
    chunks, chunk_size: windows, and tokens in one (0 where the file does not say)."""

    path: Path
    format: str
    sha256: str
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int
    entries: Mapping[str, MatrixEntry]

    @property
    def copy_name(self) -> str:
        """Name of its copy beside artifacts, which no other matrix there has."""
        return f"imatrix-{self.sha256[:8]}.{self.format}"

    def record(self) -> dict[str, Any]:
        """Its record in manifests."""
        return {
            "file": self.path.name,
            "kept_as": self.copy_name,
            "sha256": self.sha256,
            "format": self.format,
            "datasets": list(self.datasets),
            "chunks": self.chunks,
            "chunk_size": self.chunk_size,
            "entries": len(self.entries),
        }


def open_importance_matrix(location: str) -> ImportanceMatrix:
    """Raises SixfoldError if the file is missing, truncated, or not an importance matrix."""
    path = Path(location).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise SixfoldError(
            f"the importance matrix {location} cannot be read: {error.strerror}", "check the path"
        ) from error
    found = _from_gguf(path) if magic == _MAGIC else _from_dat(path)
    for name, entry in found.entries.items():
        if not len(entry.counts) or not len(entry.sums) or len(entry.sums) % len(entry.counts):
            raise _damaged(path, f"{name} has {len(entry.sums)} sums and {len(entry.counts)} counts")
        for values, kind in ((entry.sums, "sums of squares"), (entry.counts, "counts")):
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise _damaged(path, f"some of the {kind} of {name} are negative, or not finite")
    return found


def _from_gguf(path: Path) -> ImportanceMatrix:
    try:
        header = read_gguf_header(path)
    except SixfoldError as error:
        raise _damaged(path, error.what) from None
    keys = header.keys
    tensors = {tensor.name: tensor for tensor in header.tensors}
    weights = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if not weights:
        raise SixfoldError(
            f"{path} is a GGUF file of type {keys.get('general.type', 'unknown')}, without an importance matrix",
            "name a file that llama-imatrix wrote",
        )
    entries = {}
    for name in weights:
        pair = [tensors.get(name + _SUMS), tensors.get(name + _COUNTS)]
        if any(part is None or part.type_name != "F32" for part in pair):
            raise _damaged(path, f"{name} has no float32 {_SUMS} and {_COUNTS}")
        entries[name] = MatrixEntry(*(_floats(path, part) for part in pair if part is not None))
    return ImportanceMatrix(
        path,
        "gguf",
        sha256_of(path),
        _datasets(keys.get("imatrix.datasets")),
        _whole(keys.get("imatrix.chunk_count")),
        _whole(keys.get("imatrix.chunk_size")),
        entries,
    )


def _floats(path: Path, tensor: GgufTensor) -> NDArray[np.float32]:
    count = tensor.nbytes // 4
    if not count:
        return np.zeros(0, np.float32)
    return np.memmap(path, np.float32, mode="r", offset=tensor.offset, shape=(count,))


def _datasets(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _from_dat(path: Path) -> ImportanceMatrix:
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        if size < 0 or at + size > len(data):
            raise SixfoldError(
                f"{path} is not an importance matrix in llama-imatrix's GGUF or older format, or it is truncated",
                "name a file that llama-imatrix wrote, or download it again",
            )
        at += size
        return data[at - size : at].tobytes()

    def number() -> int:
        found: int = struct.unpack("<i", take(4))[0]
        return found

    entries = {}
    for _ in range(number()):
        name = take(number()).decode("utf-8", "replace")
        calls, values = number(), number()
        start = at
        take(4 * values)
        sums = np.ndarray(values, np.float32, data, start) if values else np.zeros(0, np.float32)
        # No calls: the values are the means themselves.
        entries[name] = MatrixEntry(sums, np.array([calls if calls > 0 else 1], np.float32))
    chunks = 0
    datasets: tuple[str, ...] = ()
    if entries and at < len(data):
        chunks = number()
        if at < len(data):
            datasets = (take(number()).decode("utf-8", "replace"),)
    if not entries:
        at = len(data)
        take(1)
    return ImportanceMatrix(path, "dat", sha256_of(path), tuple(filter(None, datasets)), chunks, 0, entries)


def _damaged(path: Path, what: str) -> SixfoldError:
    return SixfoldError(f"the importance matrix {path} is damaged: {what}", "download or make it again")
