"""Tensors as safetensors reads them back, and the disk's errors as what they are."""

import errno
import stat
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sixfold.checkpoint.storage.tensor_file import write_tensors
from tests.pretended_device import pretended


def test_safetensors_reads_back_what_was_written(tmp_path: Path) -> None:
    one = torch.tensor(3.5)
    tensors = {
        "bytes": torch.arange(5, dtype=torch.uint8),
        "codes": torch.randn(3, 4).to(torch.float8_e4m3fn),
        "scale": one,
        "the same scale": one,
        "turned": torch.randn(3, 2, dtype=torch.bfloat16).T,
        "none": torch.empty(0, 4),
    }
    path = tmp_path / "some.safetensors"
    digest = write_tensors(path, tensors, {"notes": "[]"})
    assert list(tmp_path.iterdir()) == [path]
    assert digest == sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_mode & stat.S_IROTH
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"notes": "[]"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            read = file.get_tensor(name)
            assert read.dtype == tensor.dtype
            assert read.shape == tensor.shape
            assert torch.equal(read.float(), tensor.float())


def test_what_is_on_a_gpu_is_written_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sixfold.checkpoint.storage.tensor_file._PIECE", 64)
    tensors = {"moments": torch.randn(7, 9).half(), "none": torch.empty(0), "count": torch.tensor(3)}
    expected = write_tensors(tmp_path / "here", tensors)
    with pretended() as device:
        there = {name: tensor.to(device) for name, tensor in tensors.items()}
        assert write_tensors(tmp_path / "there", there) == expected
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_an_error_of_the_disk() -> None:
    with pytest.raises(OSError) as raised:
        write_tensors(Path("/dev/full"), {"a": torch.zeros(100_000)})
    assert raised.value.errno == errno.ENOSPC
