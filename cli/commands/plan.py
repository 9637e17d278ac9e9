"""sixfold plan: what an export will write, to the byte, before any work."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import Model, experts_option, formats_argument, json_option, model_argument, out_option
from cli.results.forecast import hours, print_forecast
from cli.terminal import heading, print_json, print_notes, print_table
from sixfold.sizes import size

if TYPE_CHECKING:
    from calibration.forward_pass.memory import PassMemory
    from cli.results.forecast import Stage
    from exporters.export.planning import Planned
    from sixfold.artifact.plan import ExportPlan
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Calibration, Recipe


@click.command(
    short_help="Print exact bytes per variant, and the disk needed.",
    epilog="Example: sixfold plan Qwen/Qwen3-30B-A3B nvfp4 gguf --out /data/artifacts",
)
@model_argument
@formats_argument
@out_option
@experts_option
@click.option("--tensors", is_flag=True, help="List every tensor that would be written.")
@click.option("--measure", is_flag=True, help="Measure this machine first, to foretell times; kept for later plans.")
@click.option("--price", type=click.FloatRange(min=0), metavar="N", help="Of an hour on this machine, for the cost.")
@json_option
def command(
    model: Model,
    recipes: "Sequence[Recipe]",
    out: Path,
    experts: int | None,
    tensors: bool,
    measure: bool,
    price: float | None,
    as_json: bool,
) -> int:
    """Print the exact bytes of each FORMAT, what is quantized and what is kept, and the disk space needed in total.

    Nothing is written, and for a hub id only the configuration and headers are fetched. MODEL may also be a config.json
    alone, before there are weights: what it leaves open is listed. A FORMAT that cannot be made from MODEL is listed
    with the reason, and the exit code is not 0. A mix chosen to a budget is planned as it will be where its statistics
    are under --out, and else to the same budget.

    Where this machine was measured once with --measure (the disk of --out, the cores, the GPU; some minutes), the
    plan ends with the seconds that calibrating, exporting and verifying would take, and what each is bound by.
    """
    from calibration.forward_pass.memory import statistics_bytes
    from cli.error_sentence import exit_code, sentence
    from cli.recipe_budgets import fitted, known_statistics
    from cli.results.forecast import forecast, measured
    from exporters.export.planning import needs_statistics, plan_all
    from sixfold.artifact.plan import bytes_together
    from sixfold.artifact.workspace import Workspace
    from sixfold.model.bare_config import config_notes

    speed = measured(out, anew=measure, quiet=as_json)
    source = model.describe(experts)
    known = tuple(config_notes(source.checkpoint))
    workspace = Workspace(out, source.checkpoint.name)
    planned = plan_all(source, fitted(source, recipes), known_statistics(workspace))
    plans = [(entry.recipe, entry.plan) for entry in planned if entry.refusal is None]
    refusals = [entry.refusal for entry in planned if entry.refusal is not None]
    calibration = statistics_bytes(source, {recipe.calibration for recipe, _ in plans if needs_statistics(recipe)})
    passes = _passes(source, [recipe for recipe, _ in plans])
    stages = forecast(source, planned, speed) if speed is not None else []
    root = next(path for path in [out, *out.absolute().parents] if path.exists())
    free = shutil.disk_usage(root).free
    code = max((exit_code(error) for error in refusals), default=0)
    if as_json:
        print_json(_as_data(planned, calibration, passes, free, stages, price) | {"notes": list(known)})
        return code
    print_table(
        ("variant", "bytes", "size", "files", "tensors", "encodings"),
        [_row(recipe, plan) for recipe, plan in plans],
    )
    for note in known:
        click.echo(f"  {note}")
    external = "is made by an external tool, which gives no sizes in advance"
    print_notes([(recipe.name, plan.notes if plan else (external,)) for recipe, plan in plans])
    for entry in planned:
        if entry.refusal is not None:
            click.echo(f"  {entry.recipe.name} cannot be made: {sentence(entry.refusal)}")
    for recipe, plan in plans:
        if tensors and plan:
            _print_tensors(recipe, plan)
    total = bytes_together(plan for _, plan in plans if plan)
    click.echo(f"\nTotal: {total:,} bytes ({size(total)}), and {size(calibration)} of calibration statistics.")
    for profile, memory in passes.items():
        click.echo(
            f"Calibrating on {profile.samples * profile.length:,} tokens needs about {size(memory.host)} of host memory"
            + (f", {size(memory.device)} on each GPU" if memory.device else "")
            + f", and {size(memory.disk)} of disk while it runs; the largest layer has {size(memory.layer)} of weights."
        )
    print_forecast(stages, price, 0.0 if speed is None else speed.job.process)
    verdict = "enough" if total + calibration <= free else "NOT ENOUGH"
    click.echo(f"Free under {root}: {size(free)}, {verdict} (a replaced artifact stays until the new one is complete).")
    return code


def _passes(source: "Source", recipes: "Sequence[Recipe]") -> "dict[Calibration, PassMemory]":
    """What the calibration of each profile needs on this machine."""
    import torch

    from calibration.forward_pass.memory import predict
    from exporters.export.planning import needs_statistics

    on_gpu = torch.cuda.is_available()
    needed = [recipe.calibration for recipe in recipes if needs_statistics(recipe)]
    profiles = {profile: None for profile in needed if profile.imatrix is None}
    return {profile: predict(source, profile, on_gpu=on_gpu, ahead=True) for profile in profiles}


def _row(recipe: "Recipe", plan: "ExportPlan | None") -> tuple[str | int, ...]:
    if plan is None:
        return (recipe.name, "-", "-", "-", "-", recipe.exporter)
    encodings = Counter(tensor.encoding for tensor in plan.tensors)
    shown = ", ".join(f"{count} {encoding}" for encoding, count in encodings.most_common())
    return (recipe.name, plan.own_nbytes, size(plan.own_nbytes), len(plan.files), len(plan.tensors), shown)


def _print_tensors(recipe: "Recipe", plan: "ExportPlan") -> None:
    heading(recipe.name)
    print_table(
        ("tensor", "dtype", "shape", "bytes", "encoding", "file"),
        [
            (t.name, t.dtype, "x".join(map(str, t.shape)) or "scalar", t.nbytes, t.encoding, t.file)
            for t in plan.tensors
        ],
    )


def _as_data(
    planned: "Sequence[Planned]",
    calibration: int,
    passes: "dict[Calibration, PassMemory]",
    free: int,
    stages: "Sequence[Stage]",
    price: float | None,
) -> dict[str, Any]:
    from sixfold.artifact.plan import bytes_together

    return {
        "variants": [_variant(entry) for entry in planned],
        "bytes": bytes_together(entry.plan for entry in planned if entry.plan),
        "calibration_bytes": calibration,
        "calibration_memory": [
            {"samples": profile.samples, "length": profile.length, **asdict(memory)}
            for profile, memory in passes.items()
        ],
        "free_bytes": free,
        "stages": [
            {"stage": stage.name, "seconds": stage.seconds, "start": stage.start, "bound_by": stage.bound_by}
            for stage in stages
        ],
        "hours": hours(stages) if stages else None,
        "cost": hours(stages) * price if stages and price is not None else None,
    }


def _variant(entry: "Planned") -> dict[str, Any]:
    from cli.error_sentence import sentence

    recipe, plan = entry.recipe, entry.plan
    if entry.refusal is not None:
        return {"recipe": recipe.name, "bytes": None, "error": sentence(entry.refusal)}
    if plan is None:
        return {"recipe": recipe.name, "bytes": None}
    return {
        "recipe": recipe.name,
        "folder": plan.folder,
        "bytes": plan.own_nbytes,
        "files": {f.name: f.nbytes for f in plan.files} | {name: len(text) for name, text in plan.texts.items()},
        "notes": list(plan.notes),
        "tensors": [
            {
                "name": t.name,
                "dtype": t.dtype,
                "shape": list(t.shape),
                "bytes": t.nbytes,
                "file": t.file,
                "offset": t.offset,
                "encoding": t.encoding,
                "inputs": list(t.inputs),
            }
            for t in plan.tensors
        ],
    }
