"""Tensors as safetensors reads them back, and the disk's errors as what they are."""

import errno
import stat
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sixfold.checkpoint.storage.tensor_file import write_tensors


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_an_error_of_the_disk() -> None:
    with pytest.raises(OSError) as raised:
        write_tensors(Path("/dev/full"), {"a": torch.zeros(100_000)})
    assert raised.value.errno == errno.ENOSPC
