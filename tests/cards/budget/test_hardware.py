"""Machines, as hardware.yaml has them and as a reader may write them."""

from pathlib import Path

import pytest

from cards.budget import hardware as module
from cards.budget.hardware import hardware, hardware_named
from sixfold.errors import SixfoldError, UsageError

GIB = 1024**3


def test_the_machines_that_people_run_models_on_are_there() -> None:
    names = {machine.name for machine in hardware()}
    assert {f"mac-studio-{size}" for size in (64, 96, 128, 192, 512)} <= names
    assert {"rtx-4090", "rtx-5090", "rtx-pro-6000", "gb10", "mi300x"} <= names
    assert {f"{count}{name}" for count in ("", "2x-", "4x-") for name in ("h100", "h200", "b200")} <= names


def test_no_device_has_more_than_its_name_says() -> None:
    for machine in hardware():
        said = int(machine.title.removesuffix(" GB").split()[-1])
        assert 0.9 * said * 10**9 < machine.bytes_each <= said * GIB


def test_what_an_engine_may_use_is_the_machines_limit_or_its_own() -> None:
    gb10, h100, mac = (hardware_named(name) for name in ("gb10", "h100", "mac-studio-192"))
    assert gb10.usable("vllm") == int(gb10.bytes_each * 0.85)
    assert h100.usable("vllm") == int(h100.bytes_each * 0.92)
    assert h100.usable("llama.cpp") == h100.bytes_each - GIB
    assert mac.usable("llama.cpp") == 144 * GIB
    assert mac.engines == ("llama.cpp",)
    assert "three quarters" in mac.note


def test_several_devices_are_one_machine() -> None:
    assert hardware_named("4X-H100").devices == 4
    assert hardware_named("4x-h100").bytes_each == hardware_named("h100").bytes_each


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    assert hardware_named("8x-h200").devices == 8
    with pytest.raises(UsageError, match="choose from mac-studio-64, mac-studio-96"):
        hardware_named("abacus")
    for wrong, meant in (("2xh100", "2x-h100"), ("4090", "rtx-4090"), ("h1000", "h100"), ("2x-h1oo", "2x-h100")):
        with pytest.raises(UsageError, match=f"perhaps {meant} is meant"):
            hardware_named(wrong)
    with pytest.raises(UsageError, match="a machine has one device at least, such as h100"):
        hardware_named("0x-h100")


GOOD = "name: box, title: A box 8 GB, memory: 8 GiB, engines: [llama.cpp]"


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        (GOOD.replace("8 GiB", "8"), "memory 8 without a unit"),
        (GOOD.replace("8 GiB", "8 giga-B"), "'8 giga-B' is not a size"),
        (GOOD.replace("llama.cpp", "abacus"), "engines"),
        (f"{GOOD}, utilization: 85", "utilization 85"),
        (f"{GOOD}, devices: 2", "devices 2"),
        (f"{GOOD}, memry: 1", "unknown key memry"),
        ("title: nameless", "without a name"),
        (f"{GOOD}}}\n- {{{GOOD}", "box more than once"),
    ],
)
def test_a_wrong_entry_is_named(entry: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hardware.yaml").write_text(f"- {{{entry}}}\n")
    monkeypatch.setattr(module, "FILE", tmp_path / "hardware.yaml")
    hardware.cache_clear()
    try:
        with pytest.raises(SixfoldError, match=wrong):
            hardware()
    finally:
        hardware.cache_clear()
