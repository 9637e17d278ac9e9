"""sixfold plan: what an export will write, to the byte, before any work."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sixfold.commands.options import Model, formats_argument, json_option, model_argument, out_option
from sixfold.commands.terminal import heading, print_json, print_table
from sixfold.sizes import size

if TYPE_CHECKING:
    from sixfold.plan import ExportPlan
    from sixfold.recipe import Recipe
    from sixfold.source import Source


@click.command(epilog="Example: sixfold plan Qwen/Qwen3-30B-A3B nvfp4 gguf --out /data/artifacts")
@model_argument
@formats_argument
@out_option
@click.option("--tensors", is_flag=True, help="List every tensor that would be written.")
@json_option
def command(model: Model, recipes: "Sequence[Recipe]", out: Path, tensors: bool, as_json: bool) -> None:
    """Print the exact bytes of each FORMAT, what is quantized and what is kept, and the disk that all need.

    Nothing is written, and of a hub id only configuration and headers are fetched.
    """
    source = model.open(headers_only=True)
    plans = [(recipe, _plan(source, recipe)) for recipe in recipes]
    calibration = _calibration_bytes(source, recipes)
    root = next(path for path in [out, *out.absolute().parents] if path.exists())
    free = shutil.disk_usage(root).free
    if as_json:
        print_json(_as_data(plans, calibration, free))
        return
    print_table(
        ("variant", "bytes", "size", "files", "tensors", "encodings"),
        [_row(recipe, plan) for recipe, plan in plans],
    )
    for recipe, plan in plans:
        notes = plan.notes if plan else (f"{recipe.exporter} does the whole job itself and tells no sizes before",)
        for note in notes:
            click.echo(f"  {recipe.name}: {note}")
        if tensors and plan:
            _print_tensors(recipe, plan)
    total = sum(plan.nbytes for _, plan in plans if plan)
    click.echo(f"\nIn all {total:,} bytes ({size(total)}), and {size(calibration)} of calibration statistics.")
    verdict = "enough" if total + calibration <= free else "NOT ENOUGH"
    click.echo(f"Free under {root}: {size(free)}, {verdict} (a replaced artifact stays until the new one is whole).")


def _plan(source: "Source", recipe: "Recipe") -> "ExportPlan | None":
    from exporters.run import plan_of

    return plan_of(source, recipe, None)


def _calibration_bytes(source: "Source", recipes: "Sequence[Recipe]") -> int:
    """Tensor data of the statistics, once per profile; see sixfold.statistics for the layout."""
    from exporters.run import needs_statistics
    from sixfold.statistics import site_bytes

    profiles = {recipe.calibration for recipe in recipes if needs_statistics(recipe)}
    sites = {(li.site, li.expert): li.in_features for li in source.architecture.linears}
    return sum(site_bytes(channels, profile.sample_rows) for profile in profiles for channels in sites.values())


def _row(recipe: "Recipe", plan: "ExportPlan | None") -> tuple[str | int, ...]:
    if plan is None:
        return (recipe.name, "-", "-", "-", "-", recipe.exporter)
    encodings = Counter(tensor.encoding for tensor in plan.tensors)
    shown = ", ".join(f"{count} {encoding}" for encoding, count in encodings.most_common())
    return (recipe.name, plan.nbytes, size(plan.nbytes), len(plan.files), len(plan.tensors), shown)


def _print_tensors(recipe: "Recipe", plan: "ExportPlan") -> None:
    heading(recipe.name)
    print_table(
        ("tensor", "dtype", "shape", "bytes", "encoding", "file"),
        [
            (t.name, t.dtype, "x".join(map(str, t.shape)) or "scalar", t.nbytes, t.encoding, t.file)
            for t in plan.tensors
        ],
    )


def _as_data(plans: "Sequence[tuple[Recipe, ExportPlan | None]]", calibration: int, free: int) -> dict[str, Any]:
    return {
        "variants": [_variant(recipe, plan) for recipe, plan in plans],
        "bytes": sum(plan.nbytes for _, plan in plans if plan),
        "calibration_bytes": calibration,
        "free_bytes": free,
    }


def _variant(recipe: "Recipe", plan: "ExportPlan | None") -> dict[str, Any]:
    if plan is None:
        return {"recipe": recipe.name, "bytes": None}
    return {
        "recipe": recipe.name,
        "folder": plan.folder,
        "bytes": plan.nbytes,
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
