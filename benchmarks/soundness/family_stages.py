"""One family through all stages: its tiny checkpoint inspected, exported, and verified with and without its source.

Divergence is measured on some hundred tokens; gates and prompts, which mean nothing for random weights, are left out.
"""

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sixfold.artifact.workspace import Workspace
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source
from sixfold.progress import unseen as silent
from sixfold.recipes.recipe import Recipe, load_recipes
from sixfold.statistics.statistics import Statistics
from tests.every_family import make_family

FORMATS = ("bf16", "fp8", "nvfp4", "nvfp4-gb10", "mxfp4", "awq", "gguf-q4_k_m")
_SMALL = ("calibration.samples=4", "calibration.length=64", "calibration.sample_rows=32")
_MEANINGLESS = ("gate.failed", "smoke.failed")  # of random weights
_WINDOWS = 32  # tokens of each held-out text that divergence is measured on


@dataclass(frozen=True)
class Result:
    """verdict: "ok", "refused" in a sentence, or a defect in capitals: a finding about a sound artifact ("FALSE"), an
    export that fails where `plan` promised it ("BROKEN PROMISE"), an error that is no sentence ("TRACEBACK"), a process
    that died or was out of time ("UNFINISHED"). sentence: of a refusal or a defect; beside an "ok", why divergence was
    not measured."""

    family: str
    stage: str
    verdict: str
    sentence: str = ""

    @property
    def sound(self) -> bool:
        return self.verdict in ("ok", "refused")


def recipes(formats: Sequence[str], rounding: str) -> tuple[Recipe, ...]:
    return tuple(recipe for name in formats for recipe in load_recipes(name, (*_SMALL, f"rounding={rounding}")))


def sweep(family: str, root: Path, formats: Sequence[str] = FORMATS, rounding: str = "compensated") -> Iterator[Result]:
    """Make the family's checkpoint in `root`, and take it through all stages of these formats.

    A format that needs a calibration which the family cannot have is rounded to nearest.
    """
    folder = root / family
    if not folder.exists():
        make_family(family, folder)
    try:
        source = open_source(str(folder))
    except Exception as error:
        yield _failed(family, "inspect", error)
        return
    yield Result(family, "inspect", "ok")
    statistics: Statistics | Exception | None = None
    for recipe, nearest in zip(recipes(formats, rounding), recipes(formats, "nearest"), strict=True):
        if _planned(source, recipe) is not None and _planned(source, nearest) is None:
            recipe = nearest
        if _needs(recipe) and statistics is None and _planned(source, recipe) is None:
            statistics = _calibrated(source, recipe, root)
        yield _one(family, source, recipe, statistics, root)


def _planned(source: Source, recipe: Recipe) -> Exception | None:
    from exporters.export.planning import plan_all

    return plan_all(source, [recipe])[0].refusal


def _needs(recipe: Recipe) -> bool:
    from exporters.export.planning import needs_statistics

    return needs_statistics(recipe)


def _calibrated(source: Source, recipe: Recipe, root: Path) -> Statistics | Exception:
    from calibration.calibrate import calibrate

    workspace = Workspace(root / "out", source.checkpoint.name)
    try:
        return calibrate(
            source, recipe.calibration, workspace.calibration(recipe.calibration), progress=silent
        ).statistics
    except Exception as error:
        return error


def _one(family: str, source: Source, recipe: Recipe, statistics: Statistics | Exception | None, root: Path) -> Result:
    from exporters.export.run import export

    refusal = _planned(source, recipe)
    if refusal is not None:
        return _failed(family, recipe.name, refusal)
    workspace = Workspace(root / "out", source.checkpoint.name)
    try:
        if isinstance(statistics, Exception) and _needs(recipe):
            raise statistics
        known = statistics if isinstance(statistics, Statistics) else None
        done = export(source, recipe, workspace, known, threads=1, progress=silent)
    except SixfoldError as error:
        return Result(family, recipe.name, "BROKEN PROMISE", str(error))
    except Exception as error:
        return _failed(family, recipe.name, error)
    path = (
        done.folder if done.manifest == "manifest.json" else done.folder / done.manifest.removesuffix(".manifest.json")
    )
    return _verified(family, recipe, source, path)


def _verified(family: str, recipe: Recipe, source: Source, path: Path) -> Result:
    from sixfold.texts.held_out_text import held_out
    from verification import measure
    from verification.judge import judge
    from verification.smoke import smoke_test
    from verification.verify import verify

    measure.held_out = partial(held_out, tokens=_WINDOWS)
    smoke_test.TOKENS = 2  # what random weights answer means nothing, but asking must work
    smoke_test.program = lambda: None
    unmeasured = ""
    try:
        for against in (None, source):
            found = judge(path, against, silent) if against is not None else verify(path, None, silent)
            wrong = [f for f in found.findings if f.severity == "error" and f.check not in _MEANINGLESS]
            unmeasured = next((f.what for f in found.findings if f.check == "divergence.not-measured"), "")
            if wrong:
                more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                alone = "" if against is not None else " without --against"
                return Result(
                    family, recipe.name, "FALSE", f"{wrong[0].check}{alone}: {wrong[0].where}: {wrong[0].what}{more}"
                )
    except Exception as error:
        return _failed(family, recipe.name, error)
    return Result(family, recipe.name, "ok", unmeasured)


def _failed(family: str, stage: str, error: Exception) -> Result:
    if isinstance(error, SixfoldError):
        return Result(family, stage, "refused", str(error))
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Result(family, stage, "TRACEBACK", f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})")
