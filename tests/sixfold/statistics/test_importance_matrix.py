"""Files of llama-imatrix, both formats, and what is no such file."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from sixfold.artifact.workspace import sha256_of
from sixfold.errors import SixfoldError
from sixfold.statistics.importance_matrix import open_importance_matrix

SUMS = {"blk.0.attn_q.weight": [1.0, 4.0, 9.0], "blk.0.ffn_up_exps.weight": [1.0, 2.0, 3.0, 4.0]}
COUNTS = {"blk.0.attn_q.weight": [7.0], "blk.0.ffn_up_exps.weight": [3.0, 0.0]}


def gguf_file(path: Path, **changes: list[float] | None) -> Path:
    """changes: other counts, or none, by the last part of the name."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["wiki.txt", "code.txt"])
    writer.add_uint32("imatrix.chunk_count", 11)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, sums in SUMS.items():
        counts = changes.get(name.split(".")[2], COUNTS[name])
        writer.add_tensor(f"{name}.in_sum2", np.array(sums, np.float32))
        if counts is not None:
            writer.add_tensor(f"{name}.counts", np.array(counts, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dat_file(path: Path, *, calls: int = 5, tail: bool = True) -> Path:
    data = struct.pack("<i", len(SUMS))
    for name, sums in SUMS.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", calls, len(sums)) + np.array(sums, np.float32).tobytes()
    if tail:
        data += struct.pack("<ii", 11, 8) + b"wiki.txt"
    path.write_bytes(data)
    return path


def test_gguf(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "theirs.gguf")
    found = open_importance_matrix(str(path))
    assert (found.format, found.datasets, found.chunks, found.chunk_size) == ("gguf", ("wiki.txt", "code.txt"), 11, 512)
    assert found.sha256 == sha256_of(path)
    assert found.copy_name == f"imatrix-{sha256_of(path)[:8]}.gguf"
    assert {name: entry.sums.tolist() for name, entry in found.entries.items()} == SUMS
    assert {name: entry.counts.tolist() for name, entry in found.entries.items()} == COUNTS


@pytest.mark.parametrize("tail", [True, False])
def test_the_older_format(tail: bool, tmp_path: Path) -> None:
    """Its values are means times calls; chunks and dataset may be missing."""
    found = open_importance_matrix(str(dat_file(tmp_path / "imatrix.dat", tail=tail)))
    assert (found.format, found.datasets, found.chunks) == (("dat", ("wiki.txt",), 11) if tail else ("dat", (), 0))
    assert {name: entry.sums.tolist() for name, entry in found.entries.items()} == SUMS
    assert all(entry.counts.tolist() == [5.0] for entry in found.entries.values())
    without_calls = open_importance_matrix(str(dat_file(tmp_path / "imatrix.dat", calls=0)))
    assert all(entry.counts.tolist() == [1.0] for entry in without_calls.entries.values())


def test_what_is_no_importance_matrix(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(SixfoldError, match=message):
            open_importance_matrix(str(path))

    refused(tmp_path / "none", r"cannot be read: No such file or directory; check the path")
    refused(tmp_path, r"cannot be read: Is a directory")
    sound = gguf_file(tmp_path / "sound.gguf").read_bytes()
    for size in (0, 3, 40, 300, len(sound) - 40):
        (tmp_path / "cut.gguf").write_bytes(sound[:size])
        refused(tmp_path / "cut.gguf", "is damaged|is not an importance matrix")
    old = dat_file(tmp_path / "old.dat", tail=False).read_bytes()
    for size in (2, 4, 20, 40, len(old) - 1):
        (tmp_path / "cut.dat").write_bytes(old[:size])
        refused(tmp_path / "cut.dat", "is not an importance matrix .* or it is truncated")
    (tmp_path / "text.txt").write_text("some text that is long enough to be read as numbers and names")
    refused(tmp_path / "text.txt", "is not an importance matrix")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_type("model")
    writer.add_tensor("output.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "model.gguf", "is a GGUF file of type model, without an importance matrix")
    refused(gguf_file(tmp_path / "a", attn_q=None), r"damaged: blk.0.attn_q.weight has no float32 .in_sum2 and .counts")
    refused(gguf_file(tmp_path / "b", attn_q=[1.0, 2.0]), r"damaged: blk.0.attn_q.weight has 3 sums and 2 counts")
