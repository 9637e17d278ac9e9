"""Formats that take turns at a GPU, to nearest and compensated beside each other: nobody waits for ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import torch

from calibration.calibrate import calibrate
from exporters.export.run import Exported, Wanted, export_all
from exporters.rounding import device
from exporters.rounding.factor import Factor
from exporters.rounding.inputs import Inputs
from sixfold.artifact.workspace import Workspace
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration, load_recipes
from tests.exporters.exported import silent
from tests.small_demo import small_demo

PROFILE = Calibration(samples=4, length=128, sample_rows=16)
FORMATS = (("fp8", "nearest"), ("nvfp4", "nearest"), ("nvfp4-gb10", "compensated"), ("awq", "nearest"))
FORMATS += (("gguf-q4_k_m", "compensated"), ("gguf-q8_0", "nearest"))  # type: ignore[assignment]


@contextmanager
def locked(place: torch.device) -> Iterator[None]:
    with device._TURN:
        yield


def test_all_end_where_turns_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some experts nothing is known, so that batches that are compensated hold weights that are not."""
    source = open_source(small_demo(tmp_path))
    statistics = calibrate(source, PROFILE, tmp_path / "calibration", progress=silent).statistics
    users = ("rounding.device", "nvfp4", "export.unit_work", "smoothing.scale_search")
    for user in users:
        monkeypatch.setattr(f"exporters.{user}.turn", locked)
    monkeypatch.setattr("exporters.gguf.encodes_on_gpu", lambda qtype: True)
    factor = Inputs.factor

    def of_some(self: Inputs, linear: str) -> Factor | None:
        return None if ".experts.1." in linear else factor(self, linear)

    monkeypatch.setattr(Inputs, "factor", of_some)
    recipes = [load_recipes(name, [f"rounding={rounding}"])[0] for name, rounding in FORMATS]
    wanted = [Wanted(recipe.model_copy(update={"calibration": PROFILE}), statistics) for recipe in recipes]
    workspace = Workspace(tmp_path / "out", source.checkpoint.name)
    made: list[Exported | Exception] = []
    work = Thread(
        target=lambda: made.extend(export_all(source, wanted, workspace, threads=6, progress=silent)), daemon=True
    )
    work.start()
    work.join(90)
    assert not work.is_alive()
    assert [type(result).__name__ for result in made] == ["Exported"] * len(FORMATS)
