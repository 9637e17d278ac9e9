"""The bundled checkpoints: the pruned one is what this project makes of the other."""

import json
from pathlib import Path

import pytest

from calibration.calibrate import calibrate
from pruning.anatomy import dissect
from pruning.choosing.counts import kept_for_ratio
from pruning.choosing.make_plan import Request, make_plan
from pruning.choosing.plan_file import read_plan
from pruning.proof.structure import check_structure
from pruning.run import prune
from sixfold.artifact.workspace import sha256_of
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from tests.pruning.made import DEMO, silent

pytestmark = pytest.mark.arithmetic

PRUNED = DEMO.parent / "minimax-m2-4.6m-REAP-6"
ABOUT = {"README.md", "README.figures.json", "verification.json", "manifest.json"}
"""Beside the checkpoint itself: what was said of it when it was made, by the versions of then."""


def test_its_plan_makes_it_byte_for_byte(tmp_path: Path) -> None:
    source = open_source(DEMO)
    plan = read_plan(PRUNED / "plan.json")
    out = tmp_path / PRUNED.name
    prune(source, dissect(source), plan, "drop", out, threads=2, progress=silent)
    shipped = {path.name for path in PRUNED.iterdir()} - ABOUT
    assert {"model.safetensors", "config.json", "tokenizer.json", "LICENSE", "provenance.yaml"} <= shipped
    for name in shipped:
        assert (out / name).read_bytes() == (PRUNED / name).read_bytes(), name


def test_calibration_makes_its_plan(tmp_path: Path) -> None:
    """The least salient of those kept is 2 % above the most salient pruned; BF16 sums of another processor, and tokens
    that go to another expert where scores tie, move a mean over thousands of tokens by parts of a thousand."""
    source = open_source(DEMO)
    anatomy = dissect(source)
    statistics = calibrate(source, Calibration(), tmp_path, progress=silent).statistics
    plan = make_plan(source, anatomy, Request(kept_for_ratio(anatomy, 0.25), 0.25, "reap"), statistics)
    shipped = read_plan(PRUNED / "plan.json")
    assert plan.kept == shipped.kept
    assert (plan.source, plan.criterion, plan.ratio) == (shipped.source, shipped.criterion, shipped.ratio)


def test_what_is_said_of_it_holds() -> None:
    manifest = json.loads((PRUNED / "manifest.json").read_text())
    for name, record in manifest["files"].items():
        assert sha256_of(PRUNED / name) == record["sha256"], name
    verdict = json.loads((PRUNED / "verification.json").read_text())
    assert verdict["passed"]
    assert verdict["masked"]["sound"]
    _, structure = check_structure(PRUNED, open_source(DEMO))
    assert structure.config == verdict["structure"]["experts"] == 6
