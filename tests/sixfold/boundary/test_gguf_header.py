"""Headers that claim more than the file holds are refused before anything is reserved for them."""

import struct
from pathlib import Path

import pytest

from sixfold.boundary.gguf_header import read_gguf_header
from sixfold.errors import SixfoldError


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def gguf(*keys: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, data: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join((*keys, *tensors)) + data


def tensor(name: bytes, dimensions: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<{len(dimensions)}Q", *dimensions)
    return text(name) + struct.pack("<I", len(dimensions)) + shape + struct.pack("<IQ", kind, offset)


ARRAY, STRING = 9, 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGML" + bytes(20),
        gguf(version=1),
        gguf(key(b"a", ARRAY, struct.pack("<IQ", 0, 1 << 30))),
        gguf(key(b"a", ARRAY, struct.pack("<IQ", STRING, 1 << 60))),
        gguf(key(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000)),
        gguf(key(b"a", STRING, struct.pack("<Q", 1 << 40))),
        gguf(key(b"a", 77, bytes(8))),
        gguf(key(b"a", 4, bytes(4)), key(b"a", 4, bytes(4))),
        gguf(key(b"general.alignment", 4, bytes(4))),
        gguf(key(b"general.alignment", STRING, text(b"32"))),
        gguf(tensors=(tensor(b"w", (1 << 60, 4)),)),
        gguf(tensors=(tensor(b"w", (4,) * 5),), data=bytes(64)),
        gguf(tensors=(tensor(b"w", (4,), kind=999),), data=bytes(64)),
        gguf(tensors=(tensor(b"w", (33,), kind=8),), data=bytes(128)),
        gguf(tensors=(tensor(b"w", (8,)), tensor(b"v", (8,), offset=16)), data=bytes(256)),
        struct.pack("<4sIQQ", b"GGUF", 3, 1 << 63, 1 << 63),
    ],
)
def test_what_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(SixfoldError):
        read_gguf_header(tmp_path / "x.gguf")


def test_what_is_read(tmp_path: Path) -> None:
    numbers = struct.pack("<IQ2f", 6, 2, 0.5, 1.5)
    keys = (key(b"a", 4, struct.pack("<I", 7)), key(b"b", ARRAY, numbers), key(b"c", STRING, text(b"\xff")))
    header = gguf(*keys, tensors=(tensor(b"w", (4, 2)),))
    (tmp_path / "x.gguf").write_bytes(header + bytes(-len(header) % 32) + bytes(32))
    found = read_gguf_header(tmp_path / "x.gguf")
    assert found.keys == {"a": 7, "b": [0.5, 1.5], "c": "\\xff"}
    assert found.types == {"a": "u32", "b": "[f32]", "c": "string"}
    assert [(t.name, t.shape, t.offset, t.nbytes) for t in found.tensors] == [("w", (2, 4), found.data, 32)]


@pytest.mark.parametrize("piece", [1, 7, 8, 13, 1 << 20])
def test_a_vocabulary_is_read_in_pieces(piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a piece ends: within a length, within a string, or behind one."""
    monkeypatch.setattr("sixfold.boundary.gguf_header._PIECE", piece)
    tokens = [b"", b"a", b"\xc3\xa9", b"\xff", b"a long one", b""]
    listed = struct.pack("<IQ", STRING, len(tokens)) + b"".join(map(text, tokens))
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(key(b"tokens", ARRAY, listed), key(b"behind", 4, struct.pack("<I", 7)), data=bytes(64)))
    keys = read_gguf_header(path).keys
    assert keys == {"tokens": ["", "a", "é", "\\xff", "a long one", ""], "behind": 7}
    path.write_bytes(gguf(key(b"tokens", ARRAY, listed[:-9])))
    with pytest.raises(SixfoldError, match=r"truncated or damaged"):
        read_gguf_header(path)
