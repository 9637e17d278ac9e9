"""sixfold suggest: which parts of an artifact cost most, and what to keep in 16 bits to bring it under its gate."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import Model, json_option, paths
from cli.terminal import heading, print_json, print_table, program, progress
from sixfold.sizes import size

if TYPE_CHECKING:
    from sixfold.model.source import Source
    from verification.divergence.attribution import Proposal
    from verification.suggest import Suggestion

_BAR = 30


@click.command(
    short_help="Measure what each part costs, and propose what to keep.",
    epilog="Example: sixfold suggest artifacts/m/m-NVFP4 --against demo/minimax-m2-4.6m --max-kl 0.1",
)
@click.argument("artifact", metavar="FOLDER|FILE.gguf", type=click.Path(path_type=Path))
@click.option(
    "--against", required=True, metavar="MODEL", shell_complete=paths, help="The checkpoint that it was made from."
)
@click.option("--revision", default="", metavar="TEXT", help="Branch, tag or commit of a hub id.")
@click.option(
    "--max-kl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="KL",
    help="Largest mean KL; the gate of the artifact's recipe by default.",
)
@json_option
def command(artifact: Path, against: str, revision: str, max_kl: float | None, as_json: bool) -> None:
    """Measure what each part of an artifact costs, and propose what to `keep` in 16 bits, step by step.

    Runs the model once for each part over a quarter of the held-out text, with only this part as the artifact stores
    it. The table and a chart are written beside the artifact: attribution.json and attribution.svg.

    Then the ladder: what each further megabyte buys where every tensor's type is chosen to a budget (gguf-auto, and
    nvfp4-auto for folders), if the calibration has found that out; ladder.json and ladder.svg hold it.
    """
    from sixfold.checkpoint.location import check_artifact, check_location

    check_artifact(artifact)
    check_location(against)

    from verification.attribution_result import as_data, write_attribution
    from verification.suggest import suggest

    source = Model(against, revision, "", {}).open()
    found = suggest(artifact, source, max_kl, progress)
    written = write_attribution(artifact, source, found)
    if as_json:
        print_json(as_data(artifact, source, found))
        return
    _print(found, written, artifact, against)
    _show_ladder(artifact, source, against)


def _show_ladder(artifact: Path, source: "Source", against: str) -> None:
    """Of mixes like the artifact, from the statistics of the folder that it was made in."""
    from cli.results.ladder import show_ladder
    from sixfold.artifact.workspace import Workspace
    from sixfold.recipes.recipe import Recipe
    from sixfold.statistics.statistics import existing_statistics
    from verification.result import manifest_of

    manifest = manifest_of(artifact)
    if manifest is None:  # of another tool, which left no statistics
        return
    recipe = Recipe.model_validate(manifest["recipe"])
    folder = artifact.absolute() if artifact.is_dir() else artifact.absolute().parent
    workspace = Workspace(folder.parents[1], folder.parent.name)
    statistics = existing_statistics(workspace.calibration(recipe.calibration))
    show_ladder(artifact, source, against, folder.parents[1], statistics, recipe.exporter)


def _print(found: "Suggestion", written: tuple[Path, Path], artifact: Path, against: str) -> None:
    from verification.divergence.attribution import ladder

    heading(f"What each part costs (mean KL of it alone, {found.tokens:,} tokens)")
    largest = max((cost.kl for cost in found.costs), default=0.0) or 1.0
    print_table(
        ("part", "saves", "mean KL", ""),
        [(c.part.name, size(c.part.saved), f"{c.kl:.5f}", "#" * round(_BAR * c.kl / largest)) for c in found.costs],
    )
    click.echo(f"\nWritten: {written[0]} and {written[1].name}")
    click.echo(f"As it is, the mean KL is {found.kl:.5f}.")
    if found.target is None:
        click.echo("Its recipe has no gate; set one with --max-kl.")
    elif found.kl <= found.target:
        click.echo(f"That meets the gate of {found.target:g}; nothing needs to be kept in 16 bits.")
    elif found.proposal is None:
        click.echo(f"Keeping every part would not bring it under {found.target:g}: choose a larger format.")
    else:
        click.echo(f"Under {found.target:g}: {_told(found.proposal)}")
        click.echo(f"  {_command(found.proposal, artifact, against)}")
    steps = [step for step in ladder(found.costs, found.kl) if step != found.proposal]
    if steps:
        heading("Other steps, each the cheapest for what it brings")
    for step in steps:
        click.echo(f"  {_told(step)}")
        click.echo(f"    {_command(step, artifact, against)}")


def _told(step: "Proposal") -> str:
    names = "; ".join(part.name for part in step.parts)
    return f"{size(step.extra)} more for an expected mean KL of {step.kl:.5f}: keep {names}"


def _command(step: "Proposal", artifact: Path, against: str) -> str:
    """That makes the artifact again with the step's parts in 16 bits, beside those that its recipe keeps already."""
    from sixfold.artifact.manifest import beside
    from sixfold.artifact.workspace import read_json

    recipe = (read_json(beside(artifact, "manifest.json")) or {}).get("recipe", {})
    keep = [*recipe.get("keep", ()), *(part.keep for part in step.parts)]
    words = ["export", against, recipe.get("name", "FORMAT"), "--set", f"keep={json.dumps(keep)}"]
    folder = artifact.absolute() if artifact.is_dir() else artifact.absolute().parent
    out = [] if not recipe or folder.parents[1] == Path("artifacts").absolute() else ["--out", str(folder.parents[1])]
    return f"{program()} {shlex.join([*words, *out])}"
