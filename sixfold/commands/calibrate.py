"""sixfold calibrate: one pass over the model, for every format that needs statistics."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sixfold.commands.options import Model, formats_argument, memory_options, model_argument, out_option
from sixfold.commands.terminal import progress

if TYPE_CHECKING:
    from sixfold.memory import Allowed
    from sixfold.recipe import Recipe


@click.command(
    short_help="Gather the statistics that formats need, once for all of them.",
    epilog="Example: sixfold calibrate demo/minimax-m2-4.6m --set calibration.samples=128",
)
@model_argument
@formats_argument
@out_option
@memory_options
def command(model: Model, recipes: "tuple[Recipe, ...]", out: Path, allowed: "Allowed") -> None:
    """Gather MODEL's statistics for the calibration profile of FORMAT... (all-formats where none is given).

    `sixfold export` does this by itself where a format needs it. Nothing is run where the statistics are current.

    The texts are a built-in set unless the recipe, --set calibration.texts=[my.jsonl] or --set calibration.profile=reap
    names others: files, folders and datasets of the Hugging Face Hub (calibration/README.md).
    """
    from calibration.calibrate import calibrate
    from calibration.coverage import summary
    from calibration.text_notes import text_notes
    from sixfold.workspace import Workspace

    source = model.open()
    workspace = Workspace(out, source.checkpoint.name)
    for profile in dict.fromkeys(recipe.calibration for recipe in recipes):
        folder = workspace.calibration(profile)
        done = calibrate(source, profile, folder, progress=progress, allowed=allowed)
        for reason in done.reasons:
            click.echo(f"Calibrated again: {reason}")
        for note in text_notes(done.statistics.manifest["tokens"]):
            click.echo(f"Note: {note}.")
        if line := summary(done.coverage):
            click.echo(line)
        click.echo(f"The statistics in {folder} {'are current' if done.skipped else 'are done'}.")
    click.echo(f"Next: sixfold export {model.location} all-formats --out {out}")
