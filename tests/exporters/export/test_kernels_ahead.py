"""Kernels are compiled ahead where there is a GPU for them, and once. Compiling itself: tests/gpu."""

from pathlib import Path

import pytest
import torch

from exporters.export import kernels_ahead
from exporters.export.kernels_ahead import compile_ahead, kernels_of
from exporters.export.planning import Planned, plan_all
from sixfold.model.source import open_source
from sixfold.recipes.recipe import load_recipes
from tests.exporters.exported import DEMO


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Planned]:
    monkeypatch.setattr("exporters.export.speed.encodes_on_gpu", lambda qtype: qtype.name not in ("BF16", "F32"))
    return plan_all(
        open_source(DEMO), [load_recipes(name, ["rounding=compensated"])[0] for name in ("gguf-q8_0", "awq")]
    )


def begun(planned: list[Planned], monkeypatch: pytest.MonkeyPatch, cores: int = 64) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(kernels_ahead, "begin", found.extend)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    compile_ahead(planned)
    return sorted(found)


def test_those_of_the_types_that_weights_get(planned: list[Planned]) -> None:
    assert kernels_of(planned) == ["Q8_0", "awq+"]  # llama.cpp has nothing to make up for in Q8_0


def test_nothing_is_begun_without_a_gpu(planned: list[Planned], monkeypatch: pytest.MonkeyPatch) -> None:
    assert begun(planned, monkeypatch) == []


def test_each_is_begun_until_it_was_compiled(
    planned: list[Planned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_ahead, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(kernels_ahead, "find_spec", lambda name: name)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (80 << 30, 80 << 30))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    every = kernels_of(planned)
    assert begun(planned, monkeypatch) == every
    kernels_ahead._mark(every[0]).touch()
    assert begun(planned, monkeypatch) == every[1:]
    assert begun(planned, monkeypatch, cores=1) == []
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (8 << 30, 80 << 30))  # a calibration needs it all
    assert begun(planned, monkeypatch) == []
