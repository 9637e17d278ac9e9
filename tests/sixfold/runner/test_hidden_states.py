import errno
from pathlib import Path

import pytest
import torch

from sixfold.errors import SixfoldError
from sixfold.runner.hidden_states import HiddenStates

SHAPES = [(2, 3, 5), (1, 4, 5)]


def test_what_a_layer_gives_is_what_the_next_one_reads(tmp_path: Path) -> None:
    hidden = HiddenStates(tmp_path, SHAPES, torch.bfloat16)
    first, second = (torch.randn(shape).bfloat16() for shape in SHAPES)
    hidden.write(0, first)
    hidden.write(1, second)
    assert not hidden.read(0).any()
    hidden.flip()
    assert torch.equal(hidden.read(0), first)
    assert torch.equal(hidden.read(1), second)


def test_another_process_finds_them_and_sees_a_torn_file(tmp_path: Path) -> None:
    hidden = HiddenStates(tmp_path, SHAPES, torch.bfloat16)
    hidden.write(1, torch.ones(SHAPES[1]))
    hidden.flip()
    again = HiddenStates(tmp_path, SHAPES, torch.bfloat16, turn=hidden.turn)
    assert torch.equal(again.read(1), torch.ones(SHAPES[1]).bfloat16())
    before = again.checksum()
    assert before == hidden.checksum()
    path = tmp_path / f"hidden-{hidden.turn}.bin"
    path.write_bytes(b"\1" * path.stat().st_size)
    assert again.checksum() != before


def test_no_page_of_the_file_has_two_batches(tmp_path: Path) -> None:
    """Of one that two machines write into, a shared file system keeps what either has. Processes that have batches of
    their own know the checksum of all by adding theirs."""
    hidden = HiddenStates(tmp_path, SHAPES, torch.bfloat16)
    for number, shape in enumerate(SHAPES):
        hidden.write(number, torch.full(shape, 1.0 + number))
    hidden.flip()
    pages = (tmp_path / f"hidden-{hidden.turn}.bin").read_bytes()
    both = torch.frombuffer(bytearray(pages), dtype=torch.bfloat16).view(2, 1 << 15)
    assert [row.unique().tolist() for row in both] == [[0.0, 1.0], [0.0, 2.0]]
    assert hidden.checksum([0]) + hidden.checksum([1]) == hidden.checksum() != 0


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    hidden = HiddenStates(tmp_path, SHAPES, torch.float32)
    hidden.remove()
    assert not list(tmp_path.iterdir())


def test_the_disk_is_taken_before_anything_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into holes of a mapped file one writes until the disk is full, and then dies of SIGBUS."""
    HiddenStates(tmp_path, [(64, 1024)], torch.bfloat16)
    for path in tmp_path.iterdir():
        assert path.stat().st_blocks * 512 >= 64 * 1024 * 2

    def full(descriptor: int, start: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(SixfoldError, match=r"131 kB for hidden states cannot be had in .*: No space left on device"):
        HiddenStates(tmp_path / "full", [(64, 1024)], torch.bfloat16)
