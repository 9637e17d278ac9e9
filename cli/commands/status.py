"""sixfold status: which artifacts exist, and which are current."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Model, formats_argument, json_option, model_argument, out_option
from cli.terminal import print_filled, print_json
from sixfold.sizes import size

if TYPE_CHECKING:
    from exporters.export.planning import Planned
    from sixfold.artifact.manifest import State
    from sixfold.artifact.workspace import Workspace
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Recipe


@click.command(
    short_help="Print what is missing, partial, stale, damaged or current.",
    epilog="Example: sixfold status demo/minimax-m2-4.6m --out artifacts",
)
@model_argument
@formats_argument
@out_option
@json_option
def command(model: Model, recipes: "Sequence[Recipe]", out: Path, as_json: bool) -> None:
    """Print whether each FORMAT is missing, partial, stale, damaged, current or refused, and why; and how far an
    unfinished calibration is."""
    from cli.recipe_budgets import fitted, known_statistics
    from exporters.export.planning import plan_all
    from sixfold.artifact.workspace import Workspace

    source = model.open(headers_only=True)
    workspace = Workspace(out, source.checkpoint.name)
    planned = plan_all(source, fitted(source, recipes), known_statistics(workspace))
    rows = [(entry.recipe, *_state(source, entry, workspace)) for entry in planned]
    unfinished = _unfinished([recipe for recipe, *_ in rows], workspace)
    if as_json:
        print_json(
            [
                {
                    "recipe": r.name,
                    "state": s.name,
                    "reasons": list(s.reasons),
                    "folder": str(f),
                    "bytes": n,
                    "calibrated_layers": unfinished.get(workspace.calibration(r.calibration)),
                }
                for r, s, f, n in rows
            ]
        )
        return
    print_filled(
        ("variant", "state", "size", "folder"),
        [
            (r.name, s.name, size(n) if n else "-", str(f) if s.name not in ("missing", "refused") else "-")
            for r, s, f, n in rows
        ],
    )
    for recipe, state, _, _ in rows:
        for reason in state.reasons:
            click.echo(f"  {recipe.name}: {reason}")
    layers = source.architecture.layers
    for folder, finished in unfinished.items():
        click.echo(f"Unfinished calibration in {folder}: {min(finished, layers)} of {layers} layers.")
        click.echo("  With the same model, texts and settings, the next run resumes after them.")


def _unfinished(recipes: "Sequence[Recipe]", workspace: "Workspace") -> dict[Path, int]:
    """Folders of the recipes' unfinished calibrations -> number of finished layers."""
    from calibration.forward_pass.unfinished import finished_layers
    from exporters.export.planning import needs_statistics
    from sixfold.artifact.workspace import PARTIAL

    folders = {workspace.calibration(recipe.calibration): None for recipe in recipes if needs_statistics(recipe)}
    found = {folder: finished_layers(folder / PARTIAL) for folder in folders}
    return {folder: layers for folder, layers in found.items() if layers is not None}


def _state(source: "Source", planned: "Planned", workspace: "Workspace") -> "tuple[State, Path, int]":
    """(state, folder, size in bytes)."""
    from cli.error_sentence import sentence
    from exporters.export.planning import inputs_for, needs_statistics
    from sixfold.artifact.manifest import State, artifact_bytes, state_of
    from sixfold.artifact.work_folder import begun_mark
    from sixfold.artifact.workspace import read_json
    from sixfold.statistics.statistics import existing_statistics

    recipe = planned.recipe
    folder = workspace.variant(recipe.suffix)
    if planned.refusal is not None:
        return State("refused", (sentence(planned.refusal),)), folder, 0
    manifest = planned.plan.manifest if planned.plan is not None else "manifest.json"
    calibration = workspace.calibration(recipe.calibration)
    inputs = inputs_for(source, recipe, existing_statistics(calibration) if needs_statistics(recipe) else None)
    recorded = read_json(folder / manifest) or {"files": {}}
    nbytes = artifact_bytes(recorded["files"])
    return state_of(folder, manifest, inputs, begun_mark(folder, manifest, recipe.name)), folder, nbytes
