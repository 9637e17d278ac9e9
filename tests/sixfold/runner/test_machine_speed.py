"""What is measured of a machine, kept and read again."""

from pathlib import Path

import pytest

from sixfold.runner import machine_speed
from sixfold.runner.machine_speed import (
    MachineSpeed,
    Rounding,
    SmallJob,
    Verifying,
    keep,
    measure,
    measured_otherwise,
    measured_speed,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_was_measured_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_speed() is None
    monkeypatch.setattr(machine_speed, "_FILE", 1 << 24)
    speed = measure(tmp_path / "disk", {"fp8": Rounding(1e-9), "fp8+": Rounding(1e-9, 1e-12, at_gpu=True)})
    assert min(speed.read, speed.write, speed.digest, speed.products, speed.singles, speed.kept, speed.moved) > 1e6
    assert not list((tmp_path / "disk").iterdir())
    path = keep(speed)
    assert path.parent == tmp_path / "cache" / "sixfold"
    assert measured_speed() == speed


def test_what_a_small_model_took_is_found_again() -> None:
    verifying = {"fp8+": Verifying(1e-9, 2e-9, 3e-9)}
    job = SmallJob(3.0, {"export": 1.0}, verifying, 1e-9, 2e-9, {"": 1e-9, "gguf": 2e-9}, 3e-9)
    speed = MachineSpeed(1, "", 1, 1, 1, 1, 1, {}, 1, 1, job)
    keep(speed)
    assert measured_speed() == speed


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0}', '{"schema": 4}', '{"schema": 4, "rounding": {"fp8": 3}}'])
def test_what_is_no_measurement_is_none(text: str) -> None:
    path = keep(MachineSpeed(1, "", 1, 1, 1, 1, 1, {}, 1, 1))
    path.write_text(text)
    assert measured_speed() is None


def test_what_another_version_measured_is_none() -> None:
    path = keep(MachineSpeed(1, "", 1, 1, 1, 1, 1, {}, 1, 1))
    assert measured_speed() is not None
    assert not measured_otherwise()
    path.write_text(path.read_text().replace(f'"schema": {machine_speed.SCHEMA}', '"schema": 0'))
    assert measured_speed() is None
    assert measured_otherwise()


def test_reading_and_writing_add_up() -> None:
    speed = MachineSpeed(1, "", read=2.0, write=0.5, digest=1, products=1, singles=1, rounding={}, kept=1, moved=1)
    assert speed.disk_seconds(6, 2) == 7
