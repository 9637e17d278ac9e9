"""sixfold calibrate: one pass over the model for all formats that need statistics."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Model, engine_options, formats_argument, json_option, memory_options, model_argument, out_option
from cli.run_log import logged
from cli.terminal import print_json, print_table, progress, this_command
from sixfold.sizes import size

if TYPE_CHECKING:
    from calibration.calibrate import Calibrated
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Calibration, Recipe
    from sixfold.runner.available_memory import Allowed
    from sixfold.runner.engine import Engine


@click.command(
    short_help="Gather the statistics of one pass, for all formats.",
    epilog="Example: sixfold calibrate demo/minimax-m2-4.6m --set calibration.samples=128",
)
@model_argument
@formats_argument
@click.option(
    "--from",
    "matrix",
    type=click.Path(),
    metavar="FILE",
    help="Take the statistics from a llama.cpp importance matrix instead of a pass; only gguf formats can use them.",
)
@out_option
@memory_options
@engine_options
@json_option
def command(
    model: Model,
    recipes: "tuple[Recipe, ...]",
    matrix: str | None,
    out: Path,
    allowed: "Allowed",
    engine: "Engine",
    as_json: bool,
) -> None:
    """Gather MODEL's statistics for the calibration profile of FORMAT... (all-formats by default).

    `sixfold export` does this automatically if a format needs it. Nothing is run if the statistics are current.
    Prints how many tokens reached the experts of each layer; coverage.svg beside the statistics shows every expert.

    The texts are a built-in set unless the recipe, --set calibration.texts=[my.jsonl] or --set calibration.profile=reap
    names others: files, folders and datasets of the Hugging Face Hub (calibration/README.md).

    --from FILE is short for --set calibration.imatrix=FILE, which `sixfold export` takes too.
    """
    from calibration.calibrate import calibrate
    from cli.calibrated import tokens_of
    from cli.recipe_budgets import fitted
    from exporters.export.planning import prepare
    from sixfold.artifact.workspace import Workspace

    source = model.open()
    recipes = fitted(source, recipes)
    workspace = Workspace(out, source.checkpoint.name)
    stated = {"imatrix": matrix} if matrix is not None else {}
    results = []
    for profile in dict.fromkeys(recipe.calibration.model_copy(update=stated) for recipe in recipes):
        click.echo(_announced(source, profile), err=as_json)
        with logged(workspace.folder):
            folder = workspace.calibration(profile)
            done = calibrate(source, profile, folder, progress=progress, allowed=allowed, engine=engine)
            for recipe in recipes:
                if recipe.budget is not None and recipe.calibration.model_copy(update=stated) == profile:
                    prepare(source, recipe, done.statistics, partial(tokens_of, source, recipe, as_json), progress)
        results.append(_as_data(done))
        if not as_json:
            _print(done)
    if as_json:
        print_json(results)
        return
    following = this_command("calibrate", "export", without={"--from": 2})
    click.echo(f"Next: {following}" + (f" --set calibration.imatrix={matrix}" if matrix is not None else ""))


def _announced(source: "Source", profile: "Calibration") -> str:
    """What is about to be done, and what it takes."""
    import torch

    from calibration.forward_pass.memory import predict

    if profile.imatrix is not None:
        return f"Taking statistics from the importance matrix {profile.imatrix}, if needed."
    memory = predict(source, profile, on_gpu=torch.cuda.is_available(), ahead=True)
    return (
        f"Calibrating {source.architecture.layers} layers on {profile.samples} samples of {profile.length} tokens,"
        f" if needed: about {size(memory.host)} of host memory"
        + (f", {size(memory.device)} on each GPU" if memory.device else "")
        + f" and {size(memory.disk)} of disk while it runs."
    )


def _print(done: "Calibrated") -> None:
    from calibration.coverage_map import FILE
    from calibration.forward_pass.coverage import TABLE, summary, table
    from calibration.texts.text_notes import text_notes

    statistics = done.statistics
    for sentence in done.history:
        click.echo(f"{sentence[0].upper()}{sentence[1:]}.")
    for note in (*text_notes(statistics.manifest.get("tokens")), *_unseen(done)):
        click.echo(f"Note: {note}.")
    if done.coverage:
        print_table(TABLE, table(done.coverage))
        click.echo(f"{summary(done.coverage)}.")
        click.echo(f"Every expert: {statistics.folder / FILE}")
    click.echo(f"The statistics in {statistics.folder} {'are current' if done.skipped else 'are done'}.")


def _unseen(done: "Calibrated") -> tuple[str, ...]:
    """What has no statistics, and what the formats do with it."""
    from sixfold.name_lists import by_layer

    names = done.statistics.manifest["without_statistics"]
    if not names:
        return ()
    if done.statistics.imatrix:
        return (f"the importance matrix has no entry for {by_layer(names)}; gguf formats round it without importance",)
    what = f"no statistics for {by_layer(names)}, which transformers does not run or no format rounds"
    return (f"{what}: formats in safetensors keep them as they are, and gguf formats leave them out",)


def _as_data(done: "Calibrated") -> dict[str, Any]:
    from calibration.coverage_map import FILE
    from calibration.texts.text_notes import text_notes

    statistics = done.statistics
    return {
        "folder": str(statistics.folder),
        "state": "current" if done.skipped else "made",
        "digest": statistics.digest,
        "reasons": list(done.reasons),
        "resumed_layers": done.resumed,
        "notes": [*text_notes(statistics.manifest.get("tokens")), *_unseen(done)],
        "coverage": [
            {
                "layer": layer.layer,
                "experts": len(layer.tokens),
                "least": min(layer.tokens),
                "median": layer.median,
                "most": max(layer.tokens),
                "starved": {str(expert): layer.tokens[expert] for expert in layer.starved},
            }
            for layer in done.coverage
        ],
        "coverage_map": str(statistics.folder / FILE) if done.coverage else None,
        "without_statistics": list(statistics.manifest["without_statistics"]),
    }
