"""sixfold export: make artifacts, with the calibration they need before and the card after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands.card import render_cards, tell
from cli.options import (
    PROVENANCE_OPTIONS,
    Model,
    formats_argument,
    json_option,
    memory_options,
    model_argument,
    out_option,
    provenance_options,
    threads_option,
)
from cli.results.stage_times import StageTimes, print_stage_times
from cli.results.verdicts import Row, artifact_of, as_data, failures, print_verdicts
from cli.run_log import logged
from cli.terminal import print_json, print_notes, print_table, progress, share, this_command
from sixfold.errors import GateError
from sixfold.sizes import size

if TYPE_CHECKING:
    import torch

    from exporters.export.run import Exported
    from sixfold.artifact.verification_record import Verdict
    from sixfold.artifact.workspace import Workspace
    from sixfold.checkpoint.provenance import Provenance
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Calibration, Recipe
    from sixfold.runner.available_memory import Allowed
    from sixfold.statistics.statistics import Statistics


_SHOWN = 0.05
"""Seconds below which a stage was not done: all was current."""

_NOT_OF_STATUS = {
    **dict.fromkeys(("--threads", "--host-memory", "--device-memory", *PROVENANCE_OPTIONS), 2),
    "--no-verify": 1,
}


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
@click.option("--no-verify", is_flag=True, help="Do not verify what was made: structure, weights, divergence, gates.")
@json_option
def command(
    model: Model,
    recipes: "Sequence[Recipe]",
    out: Path,
    threads: int,
    allowed: "Allowed",
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
            stated=model.stated,
            verify=not no_verify,
            quiet=as_json,
        )
        if as_json:
            print_json([_as_data(outcome) for outcome in outcomes])
        else:
            _print_summary(outcomes, workspace, times)
    return max(outcome.exit_code for outcome in outcomes) or (GateError.exit_code if failures(_rows(outcomes)) else 0)


@dataclass(frozen=True)
class Outcome:
    """The result of one recipe. error: the sentence that says what stopped it, "" if nothing did. verdict: None if it
    was not verified."""

    recipe: str
    done: "Exported | None"
    error: str = ""
    exit_code: int = 0
    verdict: "Verdict | None" = None


def make_all(
    source: "Source",
    recipes: "Sequence[Recipe]",
    workspace: "Workspace",
    threads: int,
    allowed: "Allowed",
    times: StageTimes,
    *,
    stated: Mapping[str, str],
    verify: bool,
    quiet: bool,
) -> list[Outcome]:
    """Make every recipe, all in one walk, and verify them, in another. One that fails is reported and does not stop the
    others.

    stated: provenance from the command line's options, for cards.
    """
    from cli.error_sentence import exit_code, sentence
    from cli.fitted import fitted, known_statistics
    from exporters.export.planning import check_disk, plan_all
    from exporters.export.run import Exported, Wanted, export_all
    from sixfold.artifact.source_record import record_source
    from sixfold.runner.available_memory import available_memory

    recipes = fitted(source, recipes)
    planned = plan_all(source, recipes, known_statistics(workspace))
    check_disk(source, planned, workspace, _calibration_bytes(source, recipes, workspace))
    refusals = {entry.recipe.name: entry.refusal for entry in planned}
    del planned  # plans of large models are large, and are made again with what calibration finds
    _warn(source, record_source(source.checkpoint, stated, workspace.folder), quiet=quiet)
    statistics: dict[Calibration, Statistics] = {}
    results: dict[str, Exported | Exception] = {}
    needed: dict[str, Statistics | None] = {}
    wanted = []
    for recipe in recipes:
        try:
            if (refusal := refusals[recipe.name]) is not None:
                raise refusal
            found = _statistics(source, recipe, workspace, statistics, allowed, times, quiet)
            wanted.append(Wanted(recipe, found, partial(tokens_of, source, recipe, quiet)))
            needed[recipe.name] = found
        except Exception as error:  # a defect in one format must not cost the others of a long run
            results[recipe.name] = error
    with times.timed("export") as walk:
        made = export_all(
            source,
            wanted,
            workspace,
            threads=threads,
            progress=progress,
            memory=allowed.host if allowed.host is not None else available_memory(),
            say=partial(_say, quiet=quiet),
        )
    for took in (result.took for result in made if isinstance(result, Exported) and result.took):
        walk.read, walk.written = took["walk"]["read_bytes"], took["walk"]["written_bytes"]
    results |= {want.recipe.name: result for want, result in zip(wanted, made, strict=True)}
    outcomes = []
    for recipe in recipes:
        done = None
        try:
            result = results[recipe.name]
            if isinstance(result, Exception):
                raise result
            done = result
            with times.timed("cards"):
                _complete(recipe, workspace, done, needed[recipe.name], quiet)
        except Exception as error:
            outcomes.append(Outcome(recipe.name, done, sentence(error), exit_code(error)))
            _say(f"{recipe.name} failed: {outcomes[-1].error}", quiet)
            continue
        outcomes.append(Outcome(recipe.name, done))
        for reason in done.reasons:
            _say(f"{recipe.name} was made again: {reason}", quiet)
        _say(f"{recipe.name} {'is current' if done.skipped else 'done'}, {size(done.nbytes)}", quiet)
    if verify:
        with times.timed("verification"):
            outcomes = _verified(source, outcomes, quiet)
    try:
        with times.timed("cards"):
            render_cards(workspace.folder, quiet=quiet)
    except Exception as error:  # the artifacts are sound nevertheless
        _say(f"not all cards could be rendered: {sentence(error)}", quiet)
    return outcomes


def _verified(source: "Source", outcomes: Sequence[Outcome], quiet: bool) -> list[Outcome]:
    """With the verdicts on what was made: all run side by side, and where that fails, each by itself, so that it is
    known which one it was."""
    from cli.error_sentence import exit_code, sentence
    from sixfold.artifact.verification_record import verdict_of
    from verification.stored_result import judged_all

    found = {o.recipe: artifact_of(o.done.folder, o.done.manifest) for o in outcomes if o.done is not None}
    try:
        results = dict(zip(found, judged_all(list(found.values()), source, progress), strict=True))
        return [replace(o, verdict=verdict_of(results[o.recipe])) if o.recipe in results else o for o in outcomes]
    except Exception as error:
        if len(outcomes) > 1:
            return [one for outcome in outcomes for one in _verified(source, [outcome], quiet)]
        _say(f"{outcomes[0].recipe} failed: {sentence(error)}", quiet)
        return [replace(outcomes[0], error=sentence(error), exit_code=exit_code(error))]


def _rows(outcomes: Sequence[Outcome]) -> list[Row]:
    return [
        Row(o.recipe, artifact_of(o.done.folder, o.done.manifest), o.done.nbytes, o.verdict)
        for o in outcomes
        if o.done is not None and o.verdict is not None
    ]


def _warn(source: "Source", provenance: "Provenance", *, quiet: bool) -> None:
    """Warn of what the source lacks, and every artifact will lack too."""
    checkpoint = source.checkpoint
    if not any(name.startswith("tokenizer") for name in checkpoint.extras):
        _say(f"{checkpoint.location} has no tokenizer, so the artifacts will have none; engines need one", quiet)
    if not provenance.license:
        _say("no license is stated (--license, or provenance.yaml beside the weights), so cards will name none", quiet)


def _say(text: str, quiet: bool) -> None:
    click.echo(text, err=quiet)


def _statistics(
    source: "Source",
    recipe: "Recipe",
    workspace: "Workspace",
    known: "dict[Calibration, Statistics]",
    allowed: "Allowed",
    times: StageTimes,
    quiet: bool,
) -> "Statistics | None":
    """The statistics that the recipe needs, calibrating once per profile."""
    from calibration.calibrate import calibrate
    from calibration.forward_pass.coverage import summary
    from calibration.texts.text_notes import text_notes
    from exporters.export.planning import needs_statistics

    if not needs_statistics(recipe):
        return None
    profile = recipe.calibration
    if profile not in known:
        _say(_announced(profile), quiet)
        with times.timed("calibration"):
            done = calibrate(source, profile, workspace.calibration(profile), progress=progress, allowed=allowed)
        for sentence in done.history:
            _say(sentence, quiet)
        for note in text_notes(done.statistics.manifest.get("tokens")):
            _say(note, quiet)
        _say(f"calibration {'is current' if done.skipped else 'done'}. {summary(done.coverage)}".rstrip(), quiet)
        known[profile] = done.statistics
    return known[profile]


def _calibration_bytes(source: "Source", recipes: "Sequence[Recipe]", workspace: "Workspace") -> int:
    """What the calibrations that are not there yet will take, and what unfinished ones have taken already."""
    from calibration.forward_pass.memory import disk_bytes
    from exporters.export.planning import needs_statistics
    from sixfold.artifact.workspace import PARTIAL
    from sixfold.statistics.statistics import existing_statistics

    total = 0
    for profile in {recipe.calibration for recipe in recipes if needs_statistics(recipe)}:
        folder = workspace.calibration(profile)
        if existing_statistics(folder) is None:
            present = sum(path.stat().st_blocks * 512 for path in (folder / PARTIAL).glob("*"))
            total += max(0, disk_bytes(source, profile) - present)
    return total


def _announced(profile: "Calibration") -> str:
    if profile.imatrix is not None:
        return f"taking statistics from the importance matrix {profile.imatrix}, if needed"
    return f"calibrating on {profile.samples} samples of {profile.length} tokens, if needed"


def tokens_of(source: "Source", recipe: "Recipe", quiet: bool) -> "torch.Tensor":
    """The calibration's tokens, for external tools that calibrate themselves and for probes."""
    from calibration.texts.text_notes import text_notes
    from calibration.texts.tokens import token_batches
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.errors import SixfoldError

    if recipe.calibration.imatrix is not None:
        raise SixfoldError(
            f"{recipe.name} calibrates on texts itself, and an importance matrix holds none",
            "leave calibration.imatrix out for it",
        )
    batches = token_batches(recipe.calibration, load_tokenizer(source.checkpoint.folder))
    for note in text_notes(batches.record):
        _say(note, quiet)
    return batches.ids


def _complete(
    recipe: "Recipe", workspace: "Workspace", done: "Exported", statistics: "Statistics | None", quiet: bool
) -> None:
    """Write the files beside the artifact: the importance matrix for GGUF, and the card."""
    from calibration.imatrix import FILE as IMATRIX
    from cards.facts.model_facts import read_model
    from cards.model_card.card import render_card
    from sixfold.artifact.workspace import write_if_changed

    if recipe.exporter == "gguf" and statistics is not None:
        name = statistics.imatrix["kept_as"] if statistics.imatrix else IMATRIX
        if done.described or not (done.folder / name).is_file():
            write_if_changed(done.folder / name, (workspace.calibration(recipe.calibration) / name).read_bytes())
    tell(render_card(read_model(workspace.folder), done.folder), quiet)


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


def _print_summary(outcomes: Sequence[Outcome], workspace: "Workspace", times: StageTimes) -> None:
    """The last lines: where everything is, its size, what failed, and what to do next."""
    from cards.report.report import REPORT

    click.echo("")
    made = [(o.recipe, o.done) for o in outcomes if o.done is not None]
    rows = [(name, size(d.nbytes), "current" if d.skipped else "made", str(d.folder)) for name, d in made]
    print_table(("variant", "size", "state", "folder"), rows)
    print_notes([(name, done.notes) for name, done in made if not done.skipped])
    print_verdicts(_rows(outcomes))
    click.echo("")
    print_stage_times([stage for stage in times.stages if stage.seconds >= _SHOWN])
    total = sum(done.nbytes for _, done in made)
    click.echo(f"\n{share(len(made), len(outcomes), 'variant')} in {workspace.folder}, {size(total)} in all.")
    if made:
        if (workspace.folder / REPORT).is_file():
            click.echo(f"Report: {workspace.folder / REPORT}")
        click.echo(f"Next: {this_command('export', 'status', without=_NOT_OF_STATUS)}")
    for sentence in [f"{o.recipe} failed: {o.error}" for o in outcomes if o.error] + failures(_rows(outcomes)):
        click.echo(sentence)
