"""How much longer the walks of a small model take than the longest of the parts that they are foretold by."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from calibration.calibrate import calibrate
from cli.options import load_formats
from cli.results.forecast import forecast, of_the_disk
from cli.results.verdicts import artifact_of
from cli.small_job import SETTINGS, made_of
from cli.small_model import WALKED_ON_CPU, WALKED_ON_GPU, small_model
from exporters.export.planning import needs_statistics, plan_all
from sixfold.artifact.workspace import Workspace
from sixfold.model.source import Source
from sixfold.progress import unseen
from sixfold.recipes.recipe import Recipe
from sixfold.runner.machine_speed import MachineSpeed
from sixfold.statistics.statistics import Statistics
from verification.stored_result import judged_all

_WALKS = ("export", "verification")


def overhead(folder: Path, speed: MachineSpeed) -> dict[str, float]:
    """How many times as long the walks of all formats took as their longest part but the disk's, without start-up.

    speed: of this machine, without overhead. folder: where it is done, and nothing is left. The stages were run in this
    process before, so that nothing is begun for the first time.
    """
    with TemporaryDirectory(dir=folder, prefix=".speed-") as made:
        at = Path(made)
        source = small_model(at / "model", WALKED_ON_GPU if torch.cuda.is_available() else WALKED_ON_CPU)
        recipes = load_formats(("all-formats",), SETTINGS)
        profile = next(recipe.calibration for recipe in recipes if needs_statistics(recipe))
        statistics = calibrate(source, profile, at / "statistics", progress=unseen).statistics
        plainest = [recipe for recipe in recipes if recipe.name == "bf16"]
        found = [
            (
                _walked(source, some, statistics, Workspace(at / str(number), source.checkpoint.name), speed.cores),
                _foretold(source, some, speed),
            )
            for number, some in enumerate((plainest, recipes))
        ]
    (least, few), (took, foretold) = found
    return {walk: max(1.0, (took[walk] - least[walk] + few[walk]) / foretold[walk]) for walk in _WALKS}


def _walked(
    source: Source, recipes: Sequence[Recipe], statistics: Statistics, workspace: Workspace, threads: int
) -> Mapping[str, float]:
    """Seconds by walk."""
    begun = time.perf_counter()
    made = [one for _, one in made_of(source, recipes, statistics, workspace, threads=threads)]
    exported = time.perf_counter()
    judged_all([artifact_of(one.folder, one.manifest) for one in made], source, unseen)
    return dict(zip(_WALKS, (exported - begun, time.perf_counter() - exported), strict=True))


def _foretold(source: Source, recipes: Sequence[Recipe], speed: MachineSpeed) -> Mapping[str, float]:
    """Seconds by walk of its longest part, without the disk's, as what was just written is in the page cache."""
    stages = {stage.key: stage.beside for stage in forecast(source, plan_all(source, recipes), speed)}
    return {walk: max(sum(parts.values()) for parts in stages[walk] if not of_the_disk(parts)) for walk in _WALKS}
