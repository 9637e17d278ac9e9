"""sixfold report: one page over all variants of a model, and its charts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import out_option

if TYPE_CHECKING:
    from cards.facts.model_facts import ModelFacts
    from cards.report.pictures import Picture
    from cards.report.report import HeatMap


@click.command(
    short_help="Write report.html and the charts again.",
    epilog="Example: sixfold report demo/minimax-m2-4.6m-REAP-6 --out artifacts",
)
@click.argument("location", metavar="[MODEL]", required=False)
@click.option("--name", default="", metavar="TEXT", help="Name of MODEL's outputs, if they were given one.")
@out_option
def command(location: str | None, name: str, out: Path) -> None:
    """Write report.html, which compares all variants of MODEL, and its charts as SVG and PNG.

    MODEL is the checkpoint that they were made from, or their folder under --out; all models under --out by default.
    Everything is read from the files beside the artifacts, so the checkpoint itself is not needed.
    The page is self-contained and opens from disk; its links lead to the artifacts beside it.
    """
    for root in _roots(location, name, out):
        click.echo(f"report: {write(root)}")


def draw(model: "ModelFacts") -> "tuple[tuple[Picture, ...], HeatMap, HeatMap]":
    """A model's charts and heat maps, written to charts/ in its folder."""
    from cards.report.pictures import pictures, write_pictures

    charts, coverage, saliency = pictures(model), _coverage(model), _saliency(model)
    write_pictures(model, charts, {"coverage": coverage.svg, "saliency": saliency.svg})
    return charts, coverage, saliency


def write(root: Path) -> Path:
    """report.html and charts/ in a model's folder. Returns the page's path."""
    from cards.facts.model_facts import read_model
    from cards.report.report import write_report

    model = read_model(root)
    return write_report(model, *draw(model))


def _roots(location: str | None, name: str, out: Path) -> list[Path]:
    from cards.facts.model_facts import is_model_folder
    from sixfold.errors import UsageError

    if location is None and not name:
        roots = [folder for folder in sorted(out.glob("*")) if is_model_folder(folder)]
    else:
        asked = Path(location or name).expanduser()
        named = out / (name or asked.absolute().name)
        roots = [folder for folder in (asked, named) if is_model_folder(folder)][:1]
    if not roots:
        raise UsageError(
            f"there are no artifacts of {name or location or 'any model'} under {out}",
            "make some with `sixfold export`, or name the root that holds them with --out",
        )
    return roots


def _coverage(model: "ModelFacts") -> "HeatMap":
    """The map of the default calibration. Calibration draws it, since no other stage knows what it counts."""
    from calibration.coverage_map import coverage_map
    from calibration.forward_pass.coverage import coverage_from_json
    from cards.report.report import HeatMap
    from sixfold.artifact.workspace import CALIBRATION
    from sixfold.statistics.statistics import existing_statistics

    statistics = existing_statistics(model.root / CALIBRATION)
    if statistics is None:
        return HeatMap("", "no calibration of this version is beside the artifacts")
    manifest = dict(statistics.manifest)
    if not manifest.get("coverage"):
        imatrix = "imatrix" in manifest
        return HeatMap("", "an importance matrix does not say" if imatrix else "the model has no experts")
    coverage = coverage_from_json(manifest["coverage"])
    return HeatMap(coverage_map(model.name, coverage, manifest["profile"]["min_tokens"]))


def _saliency(model: "ModelFacts") -> "HeatMap":
    from cards.report.report import HeatMap
    from pruning.plan_file import read_plan
    from pruning.saliency_map import heat_map

    if model.pruning is None:
        return HeatMap("", "No pruning plan is known for this checkpoint.")
    return HeatMap(heat_map(read_plan(model.pruning.folder / "plan.json")))
