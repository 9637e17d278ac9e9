"""sixfold report: one page over all variants of a model, and its charts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import out_option, paths

if TYPE_CHECKING:
    from cards.facts.model_facts import ModelFacts
    from cards.report.pictures import Picture


@click.command(
    short_help="Write report.html and the charts again.",
    epilog="Example: sixfold report demo/minimax-m2-4.6m-REAP-6 --out artifacts",
)
@click.argument("location", metavar="[MODEL]", required=False, shell_complete=paths)
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


def draw(model: "ModelFacts") -> "tuple[tuple[Picture, ...], tuple[Picture, Picture]]":
    """A model's charts, those of its variants and those of its experts, written to charts/ in its folder, and beside
    them the heat maps that show every expert."""
    from cards.report.pictures import expert_pictures, pictures, write_pictures

    charts, experts = pictures(model), expert_pictures(model)
    write_pictures(model, (*charts, *experts), {"coverage": _coverage(model), "saliency": _saliency(model)})
    return charts, experts


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


def _coverage(model: "ModelFacts") -> str:
    """The map of the default calibration, "" where there is none. Calibration draws it, since no other stage knows what
    it counts."""
    from calibration.coverage_map import coverage_map
    from calibration.forward_pass.coverage import coverage_from_json
    from sixfold.artifact.workspace import CALIBRATION
    from sixfold.statistics.statistics import existing_statistics

    statistics = existing_statistics(model.root / CALIBRATION)
    if statistics is None or not statistics.manifest.get("coverage"):
        return ""
    coverage = coverage_from_json(statistics.manifest["coverage"])
    return coverage_map(model.name, coverage, statistics.manifest["profile"]["min_tokens"])


def _saliency(model: "ModelFacts") -> str:
    from pruning.choosing.plan_file import read_plan
    from pruning.choosing.saliency_map import heat_map

    if model.pruning is None:
        return ""
    return heat_map(read_plan(model.pruning.folder / "plan.json"))
