"""Fixed input scales that are wrong for all inputs: what structure cannot know, a run over text shows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source
from sixfold.texts.held_out_text import Windows, held_out
from tests.exporters.exported import DEMO, silent
from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import W2, scaled, tensors
from tests.verification.damage import Tensors, copy_folder
from verification.divergence.divergence import reference_of, scored
from verification.divergence.engine_inputs import check_inputs
from verification.measure import runs_of
from verification.structure.folder_structure import open_subject


def _all_reciprocal(found: Tensors) -> None:
    for name in (name for name in found if name.endswith("input_global_scale")):
        found[name].reciprocal_()


def named(folder: Path, demo: Source, tmp_path: Path) -> set[str]:
    every = held_out(load_tokenizer(DEMO))
    windows = Windows(every.ids[:4], every.domains[:4], "four")
    reference = reference_of(demo, windows, tmp_path / "cache", silent)
    weights, runs = runs_of(folder, demo)
    inputs = scored(demo, weights, runs["engine"], windows, reference, silent).inputs
    return {finding.where for finding in check_inputs(open_subject(folder, demo), inputs)}


@pytest.mark.parametrize("variant", ["nvfp4-gb10", "nvfp4-modelopt", "fp8-modelopt"])
def test_calibrated_scales_fit(variant: str, artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    assert named(artifacts[variant], demo, tmp_path) == set()


@pytest.mark.parametrize(
    ("variant", "suffix", "damage"),
    [
        ("nvfp4-gb10", "input_global_scale", scaled(W2 + "input_global_scale", 8.0)),
        ("nvfp4-gb10", "input_global_scale", tensors(_all_reciprocal)),
        ("nvfp4-modelopt", "input_scale", scaled(W2 + "input_scale", 1 / 8)),
        ("fp8-modelopt", "input_scale", scaled(W2 + "input_scale", 1 / 100)),
    ],
)
def test_scales_that_inputs_do_not_fit_under_are_named(
    variant: str, suffix: str, damage: Callable[[Path], None], artifacts: Artifacts, demo: Source, tmp_path: Path
) -> None:
    folder = copy_folder(artifacts[variant], tmp_path / "damaged")
    damage(folder)
    assert W2 + suffix in named(folder, demo, tmp_path)
