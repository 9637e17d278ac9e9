"""sixfold calibrate: one pass over the model, for every format that needs statistics."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sixfold.commands.options import Model, formats_argument, model_argument, out_option
from sixfold.commands.terminal import progress

if TYPE_CHECKING:
    from sixfold.recipe import Calibration, Recipe


@click.command(
    short_help="Gather the statistics that formats need, once for all of them.",
    epilog="Example: sixfold calibrate demo/minimax-m2-4.6m --set calibration.samples=128",
)
@model_argument
@formats_argument
@out_option
def command(model: Model, recipes: "tuple[Recipe, ...]", out: Path) -> None:
    """Gather MODEL's statistics for the calibration profile of FORMAT (all-formats where none is given).

    `sixfold export` does this by itself where a format needs it. Nothing is run where the statistics are current.
    """
    from calibration.calibrate import calibrate
    from calibration.coverage import summary
    from sixfold.workspace import Workspace

    profile = shared_profile(recipes)
    source = model.open()
    workspace = Workspace(out, source.checkpoint.name)
    folder = workspace.calibration(profile)
    result = calibrate(source, profile, folder, progress=progress)
    if result.skipped:
        click.echo(f"{folder} is current.")
        return
    if line := summary(result.coverage):
        click.echo(line)
    click.echo(f"Statistics are in {folder}.")
    click.echo(f"Next: sixfold export {model.location} all-formats --out {out}")


def shared_profile(recipes: "tuple[Recipe, ...]") -> "Calibration":
    """The one profile that all recipes name. Raises UsageError where they differ: a pass has one profile."""
    from sixfold.errors import UsageError

    profiles = list(dict.fromkeys(recipe.calibration for recipe in recipes))
    if len(profiles) > 1:
        other = next(recipe.name for recipe in recipes if recipe.calibration != profiles[0])
        raise UsageError(
            f"{recipes[0].name} and {other} have different calibration profiles",
            "run them one after the other, each with its own --out, or give them the same profile",
        )
    return profiles[0]
