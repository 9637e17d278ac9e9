"""A layer's statistics on their way to the disk."""

from pathlib import Path
from threading import Event

import pytest
import torch

from calibration.forward_pass import layer_files as module
from calibration.forward_pass.layer_files import layer_files
from calibration.forward_pass.unfinished import Reached, read_reached

CPU = torch.device("cpu")
NOTHING = Reached("k", 0, 0, {}, {})
SUMS = {"site/count": torch.tensor(3)}


def on_disk(work: Path) -> list[str]:
    reached = read_reached(work, "k")
    return [] if reached is None else list(reached.files)


def test_it_is_written_behind_the_next_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller gives is taken before it is on the disk; the next is taken when it is."""
    free, write = Event(), module.write_tensors

    def held(*given: object) -> str:
        assert free.wait(10)
        return write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_tensors", held)
    with layer_files(tmp_path, NOTHING, CPU, ahead=True) as files:
        files.write(0, SUMS, (3, 0), 1, 5)
        assert on_disk(tmp_path) == []
        free.set()
        files.write(None, SUMS, (), 1, 5)
        assert on_disk(tmp_path)[:1] == ["layer-00000.safetensors"]
    assert files.done().routed == {0: (3, 0)}
    assert on_disk(tmp_path) == ["layer-00000.safetensors", "layer-other.safetensors"]


def test_without_room_it_is_written_first(tmp_path: Path) -> None:
    with layer_files(tmp_path, NOTHING, CPU, ahead=False) as files:
        files.write(0, SUMS, (), 1, 5)
        assert on_disk(tmp_path) == ["layer-00000.safetensors"]


def test_a_layer_that_was_computed_is_kept_when_the_next_fails(tmp_path: Path) -> None:
    def fails() -> None:
        with layer_files(tmp_path, NOTHING, CPU, ahead=True) as files:
            files.write(0, SUMS, (), 1, 5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert on_disk(tmp_path) == ["layer-00000.safetensors"]


def test_a_full_disk_is_told_at_the_next_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> str:
        raise OSError(28, "No space left on device")

    def writes_two() -> None:
        with layer_files(tmp_path, NOTHING, CPU, ahead=True) as files:
            files.write(0, SUMS, (), 1, 5)
            files.write(1, SUMS, (), 2, 5)

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        writes_two()
    assert on_disk(tmp_path) == []
