"""What a machine has room for, against what running such weights is said to take."""

import json
from pathlib import Path

import pytest

from cards.budget.device_memory import memory
from cards.budget.hardware import hardware_named
from cards.budget.room import room_for_weights
from sixfold.errors import SixfoldError, UsageError

CONFIG = json.loads((Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m" / "config.json").read_text())


@pytest.mark.parametrize(("machine", "engines"), [("gb10", ["vLLM"]), ("96gb-mac", ["llama.cpp", "Ollama"])])
def test_weights_of_that_size_fit_and_no_larger_ones(machine: str, engines: list[str]) -> None:
    found, engine = hardware_named(machine), engines[0].lower()
    room = room_for_weights(CONFIG, machine, 512, engines)
    needed = memory(CONFIG, room, engine, 512, device_bytes=found.bytes_each).total
    assert needed == found.usable(engine)


def test_a_machine_has_the_names_that_people_give_it() -> None:
    assert hardware_named("96gb-mac") == hardware_named("mac-studio-96")


def test_what_cannot_be_run_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Mac Studio 96 GB runs llama\.cpp, and the format is for vLLM"):
        room_for_weights(CONFIG, "mac-studio-96", 512, ["vLLM"])
    with pytest.raises(UsageError, match="there is no hardware"):
        room_for_weights(CONFIG, "toaster", 512, ["vLLM"])
    with pytest.raises(SixfoldError, match="the model allows"):
        room_for_weights(CONFIG, "gb10", 1 << 30, ["vLLM"])
