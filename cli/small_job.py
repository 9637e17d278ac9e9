"""All stages of a small model, to measure what they cost on this machine beside what rates of its parts foretell."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from calibration.calibrate import Calibrated, calibrate
from cli.commands.card import render_cards
from cli.options import load_formats
from cli.results.forecast import CARDS
from cli.results.verdicts import artifact_of
from cli.small_model import ON_CPU, ON_GPU, small_model
from exporters.export.planning import needs_statistics, plan_all
from exporters.export.run import Exported, Wanted, export_all
from sixfold.artifact.source_record import record_source
from sixfold.artifact.workspace import Workspace
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Recipe
from sixfold.runner.machine_speed import COMPENSATED, SmallJob, Verifying, products_speed
from sixfold.statistics.statistics import Statistics
from verification.forecast import inputs_of
from verification.speed import (
    answers_speed,
    damping_speed,
    held_for,
    holding_speed,
    input_rounding_speed,
    running_speed,
    verifying_speed,
)
from verification.stored_result import judged_all

SETTINGS = ("calibration.samples=8", "calibration.length=256")
_PROCESS = "import torch, transformers, calibration.calibrate, exporters.export.run, verification.judge"


def small_job(folder: Path) -> SmallJob:
    """folder: where it is done, and nothing is left."""
    folder.mkdir(parents=True, exist_ok=True)
    process = _timed(lambda: subprocess.run([sys.executable, "-c", _PROCESS], check=True))
    with TemporaryDirectory(dir=folder, prefix=".speed-") as at:
        source = small_model(Path(at, "model"), ON_GPU if torch.cuda.is_available() else ON_CPU)
        return replace(_of(source, Path(at)), process=process)


def _of(source: Source, at: Path) -> SmallJob:
    recipes = load_formats(("all-formats",), SETTINGS)
    profile = next(recipe.calibration for recipe in recipes if needs_statistics(recipe))
    workspace = Workspace(at / "artifacts", source.checkpoint.name)
    done: list[Calibrated] = []
    calibration = workspace.calibration(profile)
    start = {"calibration": _timed(lambda: done.append(calibrate(source, profile, calibration, progress=unseen)))}
    statistics = done[0].statistics
    plainest = [recipe for recipe in recipes if recipe.name == "bf16"]
    made: list[Exported] = []
    start["export"] = _timed(lambda: made.extend(one for _, one in made_of(source, plainest, statistics, workspace)))
    paths = [artifact_of(one.folder, one.manifest) for one in made]
    start["verification"] = _timed(lambda: judged_all(paths, source, unseen))
    held, verifying = held_for(source), dict[str, Verifying]()
    running: dict[str, float] = {}
    products, damped = products_speed(held.device, torch.float32), 0.0
    for rounding in ("nearest", "compensated"):
        formats = load_formats(("all-formats",), (*SETTINGS, f"rounding={rounding}"))
        for recipe, one in made_of(source, formats, statistics, workspace):
            names = {kind: of for kind, of in _experts(source, recipe).items() if kind not in verifying}
            path = artifact_of(one.folder, one.manifest)
            verifying |= verifying_speed(path, held, names)
            rounded = inputs_of(recipe.scheme, recipe.exporter)
            if rounded and rounded not in running:
                if not running:
                    running[""] = running_speed(path, held, products)
                running[rounded] = input_rounding_speed(path, held)
            if recipe.name == "fp8" and rounding == "compensated":
                damped = damping_speed(path, held, _inputs(source))
    record_source(source.checkpoint, {"license": "apache-2.0"}, workspace.folder)
    start[CARDS] = _timed(lambda: render_cards(workspace.folder, quiet=True))
    return SmallJob(0.0, start, verifying, holding_speed(source), answers_speed(), running, damped)


def made_of(
    source: Source, recipes: Sequence[Recipe], statistics: Statistics, workspace: Workspace, *, threads: int = 2
) -> Iterator[tuple[Recipe, Exported]]:
    """All in one walk."""
    wanted = [Wanted(recipe, statistics if needs_statistics(recipe) else None) for recipe in recipes]
    results = export_all(source, wanted, workspace, threads=threads, progress=unseen)
    for recipe, made in zip(recipes, results, strict=True):
        if isinstance(made, Exception):
            raise made
        yield recipe, made


def _inputs(source: Source) -> list[str]:
    """Names of one Linear of each input of experts."""
    linears = [linear for linear in source.architecture.linears if linear.expert is not None]
    return list({(linear.site, linear.expert): linear.name for linear in linears}.values())


def _experts(source: Source, recipe: Recipe) -> dict[str, list[str]]:
    """Names of experts' weights, by the type that they have."""
    (planned,) = plan_all(source, [recipe])
    assert planned.plan is not None
    experts = {linear.weight for linear in source.architecture.linears if linear.expert is not None}
    compensated = recipe.rounding == "compensated"
    found: dict[str, list[str]] = {}
    for unit in planned.plan.units:
        kind = unit.encoding.partition(" ")[0]
        for part in unit.inputs:
            if part.name in experts:
                found.setdefault(kind + COMPENSATED if compensated and kind != "copy" else kind, []).append(part.name)
    return found


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
