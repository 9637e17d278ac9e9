"""What an export would make, before any work: plans, refusals, disk space, and what decides the bytes."""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from exporters.export.share import with_share
from exporters.protocol import Exporter, ExternalExporter, Tokens
from exporters.registry import exporter_named
from sixfold.artifact.manifest import inputs_of, state_of
from sixfold.artifact.plan import ExportPlan
from sixfold.artifact.workspace import PARTIAL, Workspace, read_json
from sixfold.boundary.patterns import pattern
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.architecture import require_layered
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Calibration, Recipe
from sixfold.statistics.statistics import Statistics


def is_native(exporter: Exporter | ExternalExporter) -> bool:
    return hasattr(exporter, "encode")


def needs_statistics(recipe: Recipe) -> bool:
    exporter = exporter_named(recipe.exporter)
    return is_native(exporter) and cast(Exporter, exporter).needs_statistics(recipe)


def compensates(recipe: Recipe) -> bool:
    """Whether the recipe's weights are rounded with errors compensated."""
    exporter = exporter_named(recipe.exporter)
    return hasattr(exporter, "compensates") and bool(exporter.compensates(recipe))


def plan_of(source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan | None:
    """The plan of a native exporter; None for an external tool, which gives no plan."""
    exporter = exporter_named(recipe.exporter)
    _check_budget(recipe)
    _check_keep(source, recipe)
    _check_imatrix(recipe)
    _check_moments(recipe)
    if needs_statistics(recipe) and recipe.calibration.imatrix is None:
        require_layered(source.architecture, recipe.name)
    if not is_native(exporter):
        return None
    with _uncollected():
        return with_share(source, cast(Exporter, exporter).plan(source, recipe, statistics))


@contextmanager
def _uncollected() -> Iterator[None]:
    """While open, Python does not look for garbage in cycles: a large model's plan is millions of objects without any,
    and to go through them again and again as they come takes twice the time of making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def prepare(
    source: Source, recipe: Recipe, statistics: Statistics | None, tokens: Tokens | None, progress: Progress
) -> None:
    """Make what the exporter's plan or decisions read beside the statistics, where they read anything and it is not
    there yet."""
    exporter = exporter_named(recipe.exporter)
    if statistics is not None and hasattr(exporter, "prepare"):
        exporter.prepare(source, recipe, statistics, tokens, progress)


def _check_budget(recipe: Recipe) -> None:
    """Raises UsageError for a budget that the exporter would not look at."""
    if recipe.budget is not None and not hasattr(exporter_named(recipe.exporter), "offered"):
        raise UsageError(
            f"{recipe.name}: the exporter {recipe.exporter} makes one type of everything, whatever the budget",
            "leave `budget` out, or extend gguf-auto",
        )


def _check_keep(source: Source, recipe: Recipe) -> None:
    """Raises UsageError for a `keep` pattern that matches nothing: what it was meant to keep would be quantized."""
    for text in recipe.keep:
        if not any(pattern(text).search(linear.name) for linear in source.architecture.linears):
            raise UsageError(
                f"{recipe.name}: `keep` has {text!r}, which no Linear of {source.checkpoint.name} matches",
                "see their names with `sixfold inspect MODEL --json`",
            )


def carried_code(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A note on code that comes with a checkpoint."""
    code = [name for name in checkpoint.extras if name.endswith(".py")]
    if not code or not checkpoint.config.get("auto_map"):
        return ()
    named = ", ".join(code)
    return (f"code of the checkpoint is carried along, and was not run: {named}; read it before trust_remote_code",)


def _check_imatrix(recipe: Recipe) -> None:
    """Raises SixfoldError where the recipe's calibration is an importance matrix and its exporter needs more."""
    suffices = getattr(exporter_named(recipe.exporter), "importance_suffices", False)
    if recipe.calibration.imatrix is not None and needs_statistics(recipe) and not suffices:
        raise SixfoldError(
            f"{recipe.name} needs what a calibration pass measures, and calibration.imatrix takes only sums of squares"
            f" from {recipe.calibration.imatrix}",
            "leave calibration.imatrix out for it, or make only the gguf formats",
        )


def _check_moments(recipe: Recipe) -> None:
    if compensates(recipe) and not recipe.calibration.moments:
        raise UsageError(
            f"{recipe.name}: `rounding: compensated` needs second moments, and calibration.moments turns them off",
            "set calibration.moments=true, or rounding=nearest",
        )


def inputs_for(source: Source, recipe: Recipe, statistics: Statistics | None) -> dict[str, Any]:
    """What decides the artifact's bytes; a calibration profile counts only where the exporter reads it.

    Provenance counts only where weight files state it, and only as far as it is known: a rerun that states nothing
    leaves an artifact with what was stated before.
    """
    digest = statistics.digest if statistics is not None and needs_statistics(recipe) else None
    if not compensates(recipe):
        recipe = recipe.model_copy(update={"rounding": "nearest"})  # the bytes are the same, whatever was asked for
    if is_native(exporter_named(recipe.exporter)) and not needs_statistics(recipe):
        recipe = recipe.model_copy(update={"calibration": Calibration()})
    libraries = getattr(exporter_named(recipe.exporter), "libraries", ())
    inputs = inputs_of(recipe, source.checkpoint.fingerprint, source.checkpoint.revision, digest, libraries)
    fields = getattr(exporter_named(recipe.exporter), "provenance", ())
    stated = {name: value for name in fields if (value := getattr(source.checkpoint.provenance, name))}
    return inputs | {"provenance": stated} if stated else inputs


@dataclass(frozen=True)
class Planned:
    """plan: None for an external tool, and for a recipe that cannot be planned: `refusal` says why."""

    recipe: Recipe
    plan: ExportPlan | None
    refusal: Exception | None = None


def plan_all(
    source: Source, recipes: Sequence[Recipe], statistics: Callable[[Recipe], Statistics | None] | None = None
) -> tuple[Planned, ...]:
    """Every recipe's plan, before any work: what a family does not allow must not be discovered only after
    calibration. statistics: that are there already, for recipes whose plan depends on them."""
    planned = []
    for recipe in recipes:
        try:
            known = statistics(recipe) if statistics is not None and recipe.budget is not None else None
            planned.append(Planned(recipe, plan_of(source, recipe, known)))
        except Exception as error:  # a defect in one format must not stop the others
            planned.append(Planned(recipe, None, error))
    return tuple(planned)


def check_disk(source: Source, planned: Sequence[Planned], workspace: Workspace, calibration: int = 0) -> None:
    """Whether everything that is still to be written has room. Raises SixfoldError with both sizes.

    calibration: bytes that calibrations will take besides. An artifact that is replaced stays until the new one is
    complete, so the old ones' room does not count. What only new statistics would make stale is taken as current: they
    are not known yet.
    """
    needed = calibration
    for recipe, plan in ((entry.recipe, entry.plan) for entry in planned):
        folder = workspace.variant(recipe.suffix)
        if plan is None:
            continue
        recorded = read_json(folder / plan.manifest) or {}
        inputs = inputs_for(source, recipe, None) | {"statistics": recorded.get("statistics")}
        if state_of(folder, plan.manifest, inputs).name != "current":
            present = sum(p.stat().st_blocks * 512 for p in (folder / PARTIAL / recipe.name).glob("*"))
            needed += max(0, plan.nbytes - present) + _decisions_bytes(source, recipe)
    try:
        workspace.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SixfoldError(f"cannot make {workspace.folder}: {error.strerror}", "choose another OUT") from error
    free = shutil.disk_usage(workspace.root).free
    if needed > free:
        raise SixfoldError(
            f"{needed / 1e9:.2f} GB are to be written to {workspace.root}, which has {free / 1e9:.2f} GB free",
            "free some space, choose another OUT, or fewer formats",
        )


def _decisions_bytes(source: Source, recipe: Recipe) -> int:
    """At most a float32 for each input and output channel of every Linear, where calibration is read at all."""
    if not needs_statistics(recipe):
        return 0
    return sum(4 * (linear.in_features + linear.out_features) for linear in source.architecture.linears)
