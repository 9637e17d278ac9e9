"""All variants that an export was asked for: calibrated for, made in one walk, described and verified in another."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cli.calibrated import calibrated, tokens_of
from cli.commands.card import render_cards, tell
from cli.results.forecast import foretold_here
from cli.results.stage_times import StageTimes
from cli.results.verdicts import artifact_of
from cli.terminal import progress, say
from sixfold.sizes import size

if TYPE_CHECKING:
    from exporters.export.run import Exported
    from sixfold.artifact.verification_record import Verdict
    from sixfold.artifact.workspace import Workspace
    from sixfold.checkpoint.provenance import Provenance
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Calibration, Recipe
    from sixfold.runner.available_memory import Allowed
    from sixfold.runner.engine import Engine
    from sixfold.statistics.statistics import Statistics


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
    engine: "Engine",
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
    from cli.recipe_budgets import fitted, known_statistics
    from exporters.export.kernels_ahead import compile_ahead
    from exporters.export.planning import check_disk, plan_all
    from exporters.export.run import Exported, Wanted, export_all
    from sixfold.artifact.source_record import record_source
    from sixfold.artifact.workspace import clear_temporaries
    from sixfold.runner.available_memory import available_memory

    recipes = fitted(source, recipes)
    planned = plan_all(source, recipes, known_statistics(workspace))
    to_calibrate = _calibration_bytes(source, recipes, workspace)
    check_disk(source, planned, workspace, to_calibrate)
    foretold: Mapping[str, float] = {}
    if not engine.away:
        with suppress(Exception):  # nothing that is made depends on it
            foretold = foretold_here(source, planned)
        if to_calibrate:
            compile_ahead(planned)
    calibrated_before = _calibrated_before(recipes, workspace)
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
            found = _statistics(source, recipe, workspace, statistics, allowed, times, engine, quiet)
            wanted.append(Wanted(recipe, found, partial(tokens_of, source, recipe, quiet)))
            needed[recipe.name] = found
        except Exception as error:  # a defect in one format must not cost the others of a long run
            results[recipe.name] = error
    if statistics and not calibrated_before:
        times.foretell("calibration", foretold)
    with times.timed("export") as walk:
        made = export_all(
            source,
            wanted,
            workspace,
            threads=threads,
            progress=progress,
            memory=allowed.host if allowed.host is not None else available_memory(),
            say=partial(say, quiet=quiet),
            engine=engine,
        )
    for took in (result.took for result in made if isinstance(result, Exported) and result.took):
        walk.read, walk.written = took["walk"]["read_bytes"], took["walk"]["written_bytes"]
    anew = len(made) == list(refusals.values()).count(None)
    anew = anew and all(isinstance(result, Exported) and not result.skipped for result in made)
    if anew:
        times.foretell("export", foretold)
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
            if quiet:
                say(f"{recipe.name} failed: {outcomes[-1].error}", quiet)
            elif len(recipes) > 1:  # the last lines tell why
                say(f"{recipe.name} failed; the others go on", quiet)
            continue
        outcomes.append(Outcome(recipe.name, done))
        for reason in done.reasons:
            say(f"{recipe.name} was made again: {reason}", quiet)
        say(f"{recipe.name} {'is current' if done.skipped else 'done'}, {size(done.nbytes)}", quiet)
    if verify:
        clear_temporaries(workspace.folder)
        with times.timed("verification"):
            outcomes = verified(source, outcomes, engine, quiet)
        if anew:
            times.foretell("verification", foretold)
    try:
        with times.timed("cards"):
            render_cards(workspace.folder, quiet=quiet)
    except Exception as error:  # the artifacts are sound nevertheless
        say(f"not all cards could be rendered: {sentence(error)}", quiet)
    return outcomes


def verified(source: "Source", outcomes: Sequence[Outcome], engine: "Engine", quiet: bool) -> list[Outcome]:
    """With the verdicts on what was made: all run side by side, and where that fails, each by itself, so that it is
    known which one it was."""
    from cli.error_sentence import exit_code, sentence
    from sixfold.artifact.verification_record import verdict_of
    from verification.stored_result import judged_all

    found = {o.recipe: artifact_of(o.done.folder, o.done.manifest) for o in outcomes if o.done is not None}
    try:
        results = dict(zip(found, judged_all(list(found.values()), source, progress, engine), strict=True))
        return [replace(o, verdict=verdict_of(results[o.recipe])) if o.recipe in results else o for o in outcomes]
    except Exception as error:
        if len(outcomes) > 1:
            return [one for outcome in outcomes for one in verified(source, [outcome], engine, quiet)]
        return [replace(outcomes[0], error=sentence(error), exit_code=exit_code(error))]


def _warn(source: "Source", provenance: "Provenance", *, quiet: bool) -> None:
    """Warn of what the source lacks, and every artifact will lack too."""
    checkpoint = source.checkpoint
    if not any(name.startswith("tokenizer") for name in checkpoint.extras):
        say(f"{checkpoint.location} has no tokenizer, so the artifacts will have none; engines need one", quiet)
    if not provenance.license:
        say("no license is stated (--license, or provenance.yaml beside the weights), so cards will name none", quiet)


def _statistics(
    source: "Source",
    recipe: "Recipe",
    workspace: "Workspace",
    known: "dict[Calibration, Statistics]",
    allowed: "Allowed",
    times: StageTimes,
    engine: "Engine",
    quiet: bool,
) -> "Statistics | None":
    """The statistics that the recipe needs, calibrating once per profile."""
    from exporters.export.planning import needs_statistics

    if not needs_statistics(recipe):
        return None
    profile = recipe.calibration
    if profile not in known:
        with times.timed("calibration"):
            known[profile] = calibrated(source, profile, workspace, allowed, engine=engine, quiet=quiet)
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


def _calibrated_before(recipes: "Sequence[Recipe]", workspace: "Workspace") -> bool:
    """Whether anything of the calibrations that recipes need is there."""
    from exporters.export.planning import needs_statistics

    folders = {workspace.calibration(recipe.calibration) for recipe in recipes if needs_statistics(recipe)}
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


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
