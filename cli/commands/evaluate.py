"""sixfold evaluate: benchmarks and answers through an engine, with their method."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option
from cli.results.evaluation import print_evaluation
from cli.terminal import print_json, progress
from sixfold.errors import GateError

if TYPE_CHECKING:
    from evaluation.collect import Settings
    from evaluation.evaluate import Job
    from evaluation.provider import Provider
    from evaluation.subject import Subject

_TASKS = ("humaneval", "humaneval-raw", "gsm8k", "answers")


@click.command(
    short_help="Measure benchmarks and answers that end, by an engine.",
    epilog="Example: sixfold evaluate artifacts/m/m-GGUF/m-Q4_K_M.gguf --baseline artifacts/m/m-BF16 --max-tokens 2048",
)
@click.argument("artifact", metavar="[FOLDER|FILE.gguf]", required=False, type=click.Path(path_type=Path))
@click.option("--endpoint", default="", metavar="URL", help="OpenAI-compatible endpoint that serves it, up to /v1.")
@click.option("--model", default="", metavar="NAME", help="Of an endpoint: the model's name, where it has several.")
@click.option(
    "--api-key-env", default="", metavar="NAME", help="Of an endpoint: environment variable that holds its key."
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE.gguf",
    help="Compare with this one, asked in the same way; by default with the model's BF16 variant, if it was.",
)
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(_TASKS), help="What to ask; repeatable. Not gsm8k by default."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=4096, show_default=True, help="Cap on an answer.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 by default, and 0.7 for answers that end.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Answers to each problem (pass@k)."
)
@click.option(
    "--answers",
    type=click.IntRange(min=1),
    default=240,
    show_default=True,
    help="How many to sample for answers that end.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first sample.")
@click.option("--problems", type=click.IntRange(min=1), metavar="N", help="Only the first N of each benchmark.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="Requests at a time; 1 where the engine is started here, else 4.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600,
    show_default=True,
    help="Seconds for one answer.",
)
@click.option(
    "--price",
    nargs=2,
    type=click.FloatRange(min=0),
    metavar="IN OUT",
    help="Of a million tokens of prompts and of answers.",
)
@click.option(
    "--max-more-looping",
    type=click.FloatRange(min=0, max=1),
    metavar="SHARE",
    help="Gate on the difference to the baseline; its recipe's by default.",
)
@click.option(
    "--max-fewer-ended",
    type=click.FloatRange(min=0, max=1),
    metavar="SHARE",
    help="Gate on the difference to the baseline; its recipe's by default.",
)
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where results go; beside the artifact by default.",
)
@click.option("--unsafe", is_flag=True, help="Run model-written code also where this machine cannot isolate it.")
@json_option
def command(artifact: Path | None, endpoint: str, baseline: Path | None, as_json: bool, **options: Any) -> int:
    """Ask a model, and write evaluation.json beside it.

    HumanEval in three numbers: strict (an answer that was cut off at the cap fails), on completed problems, and raw
    completion; and the share of sampled answers that end by themselves or run in a loop. A GGUF file is run by
    llama-server, a folder by vLLM where it is installed, else by transformers; or whatever runs it answers at
    --endpoint. Every answer is kept, and a run that was stopped goes on where it was. What a model writes is run in a
    sandbox without network or files. Exit code 3 where a gate fails.
    """
    from evaluation.evaluate import evaluate
    from sixfold.artifact.evaluation_record import FILE, GATES
    from sixfold.checkpoint.location import check_artifact
    from sixfold.errors import UsageError

    if artifact is None and not endpoint:
        raise UsageError("there is nothing to evaluate", "name an artifact, or an --endpoint")
    for path in (artifact, baseline):
        if path is not None:
            check_artifact(path)
    job = _job(artifact, endpoint, options)
    compared = None
    if baseline is not None:
        results = options["results"] and options["results"] / "baseline"
        other = _job(baseline, "", {**options, "results": results})
        against = compared_with(other.subject, _sibling(other.subject))
        compared = evaluate(other, progress, against, _gates(other.subject, dict.fromkeys(GATES)))
    else:
        compared = _sibling(job.subject)
    found = evaluate(job, progress, compared_with(job.subject, compared), _gates(job.subject, options))
    if job.subject.manifest:
        _show_in_cards(job.subject, quiet=as_json)
    if as_json:
        print_json(found)
    else:
        print_evaluation(found, job.subject.place(FILE))
    return 0 if found["passed"] else GateError.exit_code


def _job(artifact: Path | None, url: str, options: Mapping[str, Any]) -> "Job":
    from evaluation.benchmarks.tasks import DEFAULT, TASKS
    from evaluation.collect import Settings
    from evaluation.evaluate import Job
    from evaluation.sandbox.isolation import isolation, unisolated
    from evaluation.subject import served, subject_at

    settings = Settings(
        max_tokens=options["max_tokens"],
        temperature=options["temperature"],
        seed=options["seed"],
        samples=options["samples"],
        answers=options["answers"],
        problems=options["problems"],
    )
    provider = _endpoint(url, options) if url else _engine(artifact, settings, options)
    results = options["results"]
    if artifact is not None:
        subject = subject_at(artifact, results)
    else:
        subject = served(provider.build, results or Path("evaluations") / provider.build.replace("/", "--"))
    return Job(
        subject=subject,
        provider=provider,
        tasks=[TASKS[name] for name in options["tasks"] or DEFAULT],
        settings=settings,
        isolation=unisolated if options["unsafe"] else isolation,
        price=options["price"],
    )


def _engine(artifact: Path | None, settings: "Settings", options: Mapping[str, Any]) -> "Provider":
    from evaluation.engines.choice import engine_for
    from evaluation.engines.engine import Demand
    from evaluation.provider import of_engine

    assert artifact is not None
    concurrency = options["concurrency"] or 1
    engine = engine_for(artifact, Demand(concurrency, settings.max_tokens))
    return of_engine(engine, concurrency, options["timeout"])


def _endpoint(url: str, options: Mapping[str, Any]) -> "Provider":
    from dataclasses import replace

    from evaluation.client.endpoint import Endpoint, first_model
    from evaluation.provider import of_endpoint
    from sixfold.errors import UsageError

    variable = options["api_key_env"]
    if variable and not os.environ.get(variable):
        raise UsageError(f"the environment has no {variable}", "set it to the endpoint's key")
    endpoint = Endpoint(url.rstrip("/"), options["model"], os.environ.get(variable, ""), options["timeout"])
    if not endpoint.model:
        endpoint = replace(endpoint, model=first_model(endpoint))
    return of_endpoint(endpoint, options["concurrency"] or 4)


def _sibling(subject: "Subject") -> dict[str, Any] | None:
    """Of the model's BF16 variant, where that was evaluated."""
    from sixfold.artifact.evaluation_record import FILE, stored_evaluation

    if subject.path is None:
        return None
    place = subject.path if subject.path.is_dir() else subject.path.parent
    model = subject.manifest.get("model")
    folder = place.absolute().parent / f"{model}-BF16"
    same = subject.path.is_dir() and folder == subject.path.absolute()
    return None if not model or same or not (folder / FILE).is_file() else stored_evaluation(folder, "manifest.json")


def compared_with(subject: "Subject", baseline: dict[str, Any] | None) -> dict[str, dict[str, Any] | None]:
    """With the unpruned model beside the baseline, where it is at hand and was evaluated."""
    from evaluation.result import BASELINE, ORIGINAL
    from evaluation.subject import subject_at
    from sixfold.artifact.evaluation_record import FILE
    from sixfold.artifact.original_model import original_at_hand
    from sixfold.artifact.source_record import checkpoint_folder
    from sixfold.artifact.workspace import read_json

    found = None
    if subject.path is not None and subject.manifest:
        place = subject.path.absolute() if subject.path.is_dir() else subject.path.absolute().parent
        pruned = place if "recipe" not in subject.manifest else checkpoint_folder(place.parent)
        original = original_at_hand(pruned) if pruned is not None else None
        if original is not None:
            found = read_json(original.checkpoint.folder / FILE)
            if found is not None and found["artifact"]["content"] != subject_at(original.checkpoint.folder).content:
                found = None
    return {BASELINE: baseline, ORIGINAL: found}


def _gates(subject: "Subject", options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the recipe in the artifact's manifest, and what was asked for in their place."""
    from sixfold.artifact.evaluation_record import GATES

    recipe = (subject.manifest.get("recipe") or {}).get("gates") or {}
    return {name: recipe.get(name) if options[name] is None else options[name] for name in GATES}


def _show_in_cards(subject: "Subject", *, quiet: bool) -> None:
    from cli.commands.card import render_cards
    from sixfold.errors import SixfoldError

    assert subject.path is not None
    folder = subject.path if subject.path.is_dir() else subject.path.parent
    try:
        render_cards(folder.absolute().parent, quiet=quiet)
    except SixfoldError as error:
        click.echo(f"The cards in {folder.absolute().parent} are as they were: {error}", err=True)
