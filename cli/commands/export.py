"""sixfold export: make artifacts, with the calibration they need before and the card after."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.make_all import Outcome, make_all
from cli.options import (
    Model,
    engine_options,
    formats_argument,
    json_option,
    memory_options,
    model_argument,
    out_option,
    provenance_options,
    threads_option,
)
from cli.results.next_step import after_export
from cli.results.stage_times import StageTimes, print_stage_times
from cli.results.verdicts import Row, artifact_of, as_data, failures, print_verdicts
from cli.run_log import logged
from cli.terminal import print_json, print_notes, print_table, share
from sixfold.errors import GateError
from sixfold.sizes import size

if TYPE_CHECKING:
    from exporters.export.run import Exported
    from sixfold.artifact.workspace import Workspace
    from sixfold.recipes.recipe import Recipe
    from sixfold.runner.available_memory import Allowed
    from sixfold.runner.engine import Engine

_SHOWN = 0.05
"""Seconds below which a stage was not done: all was current."""


@click.command(
    short_help="Make artifacts, and verify each.",
    epilog="Example: sixfold export demo/minimax-m2-4.6m fp8 nvfp4 --out artifacts",
)
@provenance_options
@model_argument
@formats_argument
@out_option
@threads_option
@memory_options
@engine_options
@click.option("--no-verify", is_flag=True, help="Do not verify what was made: structure, weights, divergence, gates.")
@json_option
def command(
    model: Model,
    recipes: "Sequence[Recipe]",
    out: Path,
    threads: int,
    allowed: "Allowed",
    engine: "Engine",
    no_verify: bool,
    as_json: bool,
) -> int:
    """Make FORMAT... (names, sets or paths of recipes; all formats by default) from MODEL, and verify each.

    Calibrates first if a format needs it. Current artifacts are skipped, stale ones (an input has changed) are made
    again, and a run that was killed resumes. Exit code 3 if an artifact fails a check or a gate.
    """
    from sixfold.artifact.workspace import Workspace

    source = model.open()
    workspace = Workspace(out, source.checkpoint.name)
    with logged(workspace.folder):
        times = StageTimes()
        outcomes = make_all(
            source,
            recipes,
            workspace,
            threads,
            allowed,
            times,
            engine,
            stated=model.stated,
            verify=not no_verify,
            quiet=as_json,
        )
        if as_json:
            print_json([_as_data(outcome) for outcome in outcomes])
        else:
            _print_summary(outcomes, workspace, times, verified=not no_verify)
    return max(outcome.exit_code for outcome in outcomes) or (GateError.exit_code if failures(_rows(outcomes)) else 0)


def _rows(outcomes: Sequence[Outcome]) -> list[Row]:
    return [
        Row(o.recipe, artifact_of(o.done.folder, o.done.manifest), o.done.nbytes, o.verdict)
        for o in outcomes
        if o.done is not None and o.verdict is not None
    ]


def _as_data(outcome: Outcome) -> dict[str, Any]:
    if outcome.done is None or outcome.error:
        return {"recipe": outcome.recipe, "state": "failed", "error": outcome.error}
    done = outcome.done
    return {
        "recipe": outcome.recipe,
        "state": "current" if done.skipped else "made",
        "folder": str(done.folder),
        "manifest": done.manifest,
        "bytes": done.nbytes,
        "reasons": list(done.reasons),
        "notes": list(done.notes),
        "verdict": next((as_data(row) for row in _rows([outcome])), None),
    }


def _print_summary(outcomes: Sequence[Outcome], workspace: "Workspace", times: StageTimes, *, verified: bool) -> None:
    """The last lines: where everything is, its size, what failed, and what to do next."""
    made = [(o.recipe, o.done) for o in outcomes if o.done is not None]
    if made:
        _print_made(made, outcomes, workspace, times)
    failed = _errors(outcomes) + failures(_rows(outcomes))
    if made and not failed and (hint := after_export([name for name, _ in made], workspace, verified=verified)):
        click.echo(hint)
    for sentence in failed:
        click.echo(sentence)


def _errors(outcomes: Sequence[Outcome]) -> list[str]:
    """Each sentence once, after the formats that it stopped."""
    stopped: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.error:
            stopped.setdefault(outcome.error, []).append(outcome.recipe)
    return [f"{', '.join(names)} failed: {error}" for error, names in stopped.items()]


def _print_made(
    made: "Sequence[tuple[str, Exported]]", outcomes: Sequence[Outcome], workspace: "Workspace", times: StageTimes
) -> None:
    from cards.report.report import REPORT

    click.echo("")
    rows = [(name, size(d.nbytes), "current" if d.skipped else "made", str(d.folder)) for name, d in made]
    print_table(("variant", "size", "state", "folder"), rows)
    print_notes([(name, done.notes) for name, done in made if not done.skipped])
    print_verdicts(_rows(outcomes))
    click.echo("")
    print_stage_times([stage for stage in times.stages if stage.seconds >= _SHOWN])
    total = sum(done.nbytes for _, done in made)
    click.echo(f"\n{share(len(made), len(outcomes), 'variant')} in {workspace.folder}, {size(total)} in all.")
    if (workspace.folder / REPORT).is_file():
        click.echo(f"Report: {workspace.folder / REPORT}")
