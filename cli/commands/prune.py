"""sixfold prune: remove the least salient experts from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.calibrated import calibrated
from cli.options import (
    Model,
    json_option,
    memory_options,
    model_argument,
    overrides_option,
    provenance_options,
    threads_option,
)
from cli.results.pruning import counts_of, print_verdict
from cli.terminal import print_json, progress, say
from pruning.choosing.criteria import CRITERIA, DEFAULT, names
from sixfold.errors import GateError
from sixfold.sizes import size

if TYPE_CHECKING:
    from pruning.anatomy import Anatomy
    from pruning.choosing.make_plan import Request
    from pruning.choosing.plan_file import PruningPlan
    from pruning.healing.text import Text
    from pruning.mtp import Mtp
    from sixfold.model.source import Source
    from sixfold.recipes.recipe import Calibration
    from sixfold.runner.available_memory import Allowed
    from sixfold.statistics.statistics import Statistics


@click.command(
    short_help="Remove the least salient experts, and prove the result.",
    epilog="Example: sixfold prune MiniMaxAI/MiniMax-M2.7 --ratio 0.4 --heal --out /models/MiniMax-M2.7-154",
)
@provenance_options
@model_argument
@click.option("--ratio", type=float, metavar="SHARE", help="Share of the experts to prune; 0.4 keeps 154 of 256.")
@click.option("--keep", type=int, metavar="N", help="Number of experts to keep in each layer, instead of --ratio.")
@click.option(
    "--plan",
    "plan_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Apply this plan.json, instead of --ratio or --keep; nothing is calibrated.",
)
@click.option(
    "--criterion",
    type=click.Choice(names()),
    default=DEFAULT,
    show_default=True,
    help="How experts are ranked. "
    + " ".join(f"{name}: {entry.help[0].lower()}{entry.help[1:]}" for name, entry in CRITERIA.items())
    + " aimer: by weights alone (AIMER, arXiv:2603.18492), a control, as is random.",
)
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Seed of the criterion random.")
@click.option("--protect", is_flag=True, help="Keep super-experts (extreme outputs) whatever their saliency.")
@click.option(
    "--budget",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="Keep the same number in each layer, or the most salient experts of all layers.",
)
@click.option(
    "--mtp",
    type=click.Choice(["drop", "as-last-layer", "refuse"]),
    default="drop",
    show_default=True,
    help="What to do with multi-token prediction layers, whose experts have no saliency.",
)
@click.option(
    "--heal",
    is_flag=True,
    help="Refit the projections of the kept experts to what each layer gave before, on the calibration's texts.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the pruned model.")
@click.option(
    "--artifacts",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("artifacts"),
    show_default=True,
    help="Root of the output tree: MODEL's statistics, and the pruned model if --out is not given.",
)
@click.option("--no-proof", is_flag=True, help="Skip running both models to prove the result and measure its cost.")
@click.option("--dry-run", is_flag=True, help="Print what would be kept and written; write nothing.")
@overrides_option
@threads_option
@memory_options
@json_option
def command(
    model: Model,
    ratio: float | None,
    keep: int | None,
    plan_path: Path | None,
    criterion: str,
    seed: int,
    protect: bool,
    budget: str,
    mtp: "Mtp",
    heal: bool,
    out: Path | None,
    artifacts: Path,
    no_proof: bool,
    dry_run: bool,
    overrides: tuple[str, ...],
    threads: int,
    allowed: "Allowed",
    as_json: bool,
) -> int:
    """Write MODEL without its least salient experts: a folder with plan.json, a card, and verification.json.

    Saliency comes from one calibration of MODEL, which is run if there is none yet and serves every criterion and
    ratio. Weights are copied byte for byte (FP8 and MXFP4 become BF16), and a run that was killed resumes. --heal gives
    back by least squares what the pruned experts gave: no tensor changes but the kept experts' projections.
    """
    from sixfold.errors import UsageError

    if [ratio, keep, plan_path].count(None) != 2:
        raise UsageError("it is not clear what to prune", "give one of --ratio, --keep and --plan")
    profile = _profile(overrides)

    from pruning.anatomy import dissect
    from pruning.choosing.plan_file import check_plan, read_plan
    from sixfold.checkpoint.checkpoint import is_name

    if out is not None and not is_name(out.absolute().name):
        raise UsageError(
            f"{out.name!r} cannot name a model",
            "choose another --out, whose last part consists of letters, digits, '-', '_' and '.'",
        )
    given = read_plan(plan_path) if plan_path is not None else None
    source = model.open(headers_only=dry_run)
    anatomy = dissect(source)
    if given is not None:
        check_plan(given, anatomy, str(plan_path))
        plan = given
    else:
        request = _request(anatomy, ratio, keep, criterion, seed, protect, budget)
        plan = _plan(source, anatomy, request, artifacts, profile, allowed, dry_run=dry_run, quiet=as_json)
    text = None
    if heal or plan.healing is not None:
        plan, text = _with_healing(source, plan, profile, dry_run=dry_run)
    folder = _folder(source, plan, out, artifacts)
    if dry_run:
        return _dry_run(source, anatomy, plan, mtp, folder, as_json)
    job = _Job(source, anatomy, plan, mtp, folder, text)
    return _carry_out(job, artifacts, threads, proof=not no_proof, quiet=as_json)


@dataclass(frozen=True)
class _Job:
    """What is made of what. text: that experts are refitted to; None where none are."""

    source: "Source"
    anatomy: "Anatomy"
    plan: "PruningPlan"
    mtp: "Mtp"
    folder: Path
    text: "Text | None"


def _with_healing(
    source: "Source", plan: "PruningPlan", profile: "Calibration", *, dry_run: bool
) -> "tuple[PruningPlan, Text | None]":
    """The plan that says what is refitted to, and that (nothing for a dry run): of the texts that a given plan names,
    else of the calibration's."""
    from dataclasses import replace

    from calibration.texts.tokens import ordinary_ids, token_batches
    from pruning.healing.text import Text
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.model.meta_model import transformers_config
    from sixfold.recipes.recipe import Calibration

    if plan.healing is not None:
        profile = Calibration.model_validate(plan.healing["profile"])
    healing = {"profile": profile.model_dump(mode="json")}
    if dry_run:
        return replace(plan, healing=healing), None
    tokenizer = load_tokenizer(source.checkpoint.folder)
    tokens, ordinary = token_batches(profile, tokenizer), ordinary_ids(tokenizer)
    known = ordinary < transformers_config(source.checkpoint.config).get_text_config().vocab_size
    plan = replace(plan, healing={**healing, "ids_sha256": tokens.record["ids_sha256"]})
    return plan, Text(tokens.ids, ordinary[known])


def _profile(overrides: tuple[str, ...]) -> "Calibration":
    """The calibration profile: the shipped one, with what --set says."""
    from sixfold.errors import UsageError
    from sixfold.recipes.recipe import load_recipes

    other = [text for text in overrides if not text.startswith("calibration.")]
    if other:
        raise UsageError(f"--set {other[0]} is not a key of the calibration", "pruning takes only calibration.* keys")
    # Pruning reads no second moments, and of a model before pruning they would be the largest.
    (recipe,) = load_recipes("bf16", ("calibration.moments=false", *overrides))
    return recipe.calibration


def _request(
    anatomy: "Anatomy", ratio: float | None, keep: int | None, criterion: str, seed: int, protect: bool, budget: str
) -> "Request":
    from pruning.choosing.choose import check_free_counts
    from pruning.choosing.counts import checked, kept_for_ratio
    from pruning.choosing.make_plan import Request

    if budget == "global":
        check_free_counts(anatomy)
    kept = checked(anatomy, keep) if keep is not None else kept_for_ratio(anatomy, ratio or 0.0)
    return Request(kept, ratio, criterion, seed, protect, budget == "global")


def _plan(
    source: "Source",
    anatomy: "Anatomy",
    request: "Request",
    artifacts: Path,
    profile: "Calibration",
    allowed: "Allowed",
    *,
    dry_run: bool,
    quiet: bool,
) -> "PruningPlan":
    """From the statistics of MODEL, calibrating if there are none; for a dry run, a plan of the same size."""
    from pruning.choosing.make_plan import first_experts, make_plan
    from sixfold.artifact.workspace import Workspace
    from sixfold.errors import UsageError
    from sixfold.runner.engine import HERE

    if profile.imatrix is not None:
        raise UsageError(
            "pruning needs statistics of the experts' outputs, and calibration.imatrix takes only sums of squares from"
            f" {profile.imatrix}",
            "leave calibration.imatrix out, so that a calibration pass is run",
        )
    if dry_run:
        return first_experts(source, anatomy, request)
    workspace = Workspace(artifacts, source.checkpoint.name)
    statistics = calibrated(source, profile, workspace, allowed, engine=HERE, quiet=quiet)
    return make_plan(source, anatomy, request, statistics)


def _folder(source: "Source", plan: "PruningPlan", out: Path | None, artifacts: Path) -> Path:
    from pruning.origin import result_name
    from sixfold.artifact.workspace import Workspace

    checkpoint = source.checkpoint
    return out or Workspace(artifacts, checkpoint.name).folder / result_name(checkpoint, plan)


def _dry_run(source: "Source", anatomy: "Anatomy", plan: "PruningPlan", mtp: "Mtp", folder: Path, as_json: bool) -> int:
    from pruning.model_size import model_size
    from pruning.run import export_of

    export = export_of(source, anatomy, plan, mtp, folder.name)
    before, after = model_size(source, anatomy).bytes, sum(tensor.nbytes for tensor in export.tensors)
    kept = sorted(set(plan.counts.values()))
    facts = {"folder": str(folder), "experts": anatomy.experts, "kept": kept, "layers": len(anatomy.layers)}
    if as_json:
        print_json({**facts, "bytes_before": before, "bytes_after": after, "notes": list(export.notes)})
        return 0
    click.echo(f"{counts_of(plan)} would be kept; weights go from {size(before)} to {size(after)} in {folder}.")
    for note in export.notes:
        click.echo(f"  {note}")
    return 0


def _carry_out(job: _Job, artifacts: Path, threads: int, *, proof: bool, quiet: bool) -> int:
    from cards.model_card.pruned import write_pruned_card
    from pruning.run import prune, verify
    from sixfold.checkpoint.tokenizer import load_tokenizer
    from sixfold.texts.held_out_text import held_out

    source, anatomy, plan, mtp, folder = job.source, job.anatomy, job.plan, job.mtp, job.folder
    texts = held_out(load_tokenizer(source.checkpoint.folder)).by_domain if proof else None
    done = prune(source, anatomy, plan, mtp, folder, threads=threads, progress=progress, text=job.text)
    for reason in done.reasons:
        say(f"pruned again: {reason}", quiet)
    for note in () if done.skipped else done.notes:
        say(note, quiet)
    say(f"{'is current' if done.skipped else 'done'}: {counts_of(plan)} kept, {size(done.nbytes)} in {folder}", quiet)
    verdict = verify(source, anatomy, plan, mtp, folder, texts, progress=progress)
    write_pruned_card(folder, _statistics(plan, artifacts, source))
    if quiet:
        print_json({"folder": str(folder), "state": "current" if done.skipped else "made", **verdict})
    else:
        model = str(source.checkpoint.folder) if not source.checkpoint.revision else ""
        print_verdict(verdict, folder, model, artifacts)
    return 0 if verdict["passed"] else GateError.exit_code


def _statistics(plan: "PruningPlan", artifacts: Path, source: "Source") -> "Statistics | None":
    """The calibration that the plan names, if it is available: its texts are shown on the card."""
    from sixfold.artifact.workspace import Workspace
    from sixfold.recipes.recipe import Calibration
    from sixfold.statistics.statistics import MANIFEST, open_statistics

    if plan.statistics is None:
        return None
    profile = Calibration.model_validate(plan.statistics["profile"])
    folder = Workspace(artifacts, source.checkpoint.name).calibration(profile)
    found = open_statistics(folder) if (folder / MANIFEST).is_file() else None
    return found if found is not None and found.digest == plan.statistics["digest"] else None
