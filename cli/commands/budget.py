"""sixfold budget: the memory that running a model takes, and the longest context that fits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.options import Model, experts_option, formats_argument, json_option, model_argument
from cli.terminal import heading, print_json, print_table
from sixfold.sizes import size

if TYPE_CHECKING:
    from cards.budget.hardware import Hardware
    from cards.budget.stored_weights import Artifact
    from cards.budget.variant_budgets import Asked, CacheBudget, VariantBudget
    from sixfold.recipes.recipe import Recipe

_ENGINES = ("vllm", "sglang", "llama.cpp")
_DEFAULT_CONTEXTS = (8192, 32768, 131072)


class _Contexts(click.ParamType):
    name = "contexts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found = [re.fullmatch(r"(\d+)(k?)", part.strip().lower()) for part in str(value).split(",")]
        contexts = tuple(int(m[1]) * (1024 if m[2] else 1) for m in found if m)
        if len(contexts) != len(found) or not all(contexts):
            self.fail(f"{value!r} is not a list of contexts; write it like 8k,32k or 100000", param, ctx)
        return contexts


class _Machine(click.ParamType):
    name = "machine"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Before anything else is looked at: a wrong name is told at once."""
        from cards.budget.hardware import hardware_named

        return hardware_named(value) if isinstance(value, str) else value


@click.command(
    short_help="Print the memory that running a model takes.",
    epilog="Example: sixfold budget Qwen/Qwen3-30B-A3B nvfp4 gguf --context 8k,32k --hardware gb10",
)
@model_argument
@formats_argument
@click.option(
    "--context", type=_Contexts(), metavar="8k,32k", help="Tokens of each sequence; 8k is 8192.  [8k,32k,128k]"
)
@click.option(
    "--hardware",
    "machines",
    type=_Machine(),
    multiple=True,
    metavar="NAME",
    help="A machine of cards/hardware.yaml, or several GPUs (8x-h100); can be repeated.",
)
@click.option("--engine", type=click.Choice(_ENGINES), help="Only this engine, instead of all that read a format.")
@click.option(
    "--cache-type",
    type=click.Choice(["bf16", "fp8", "q8_0", "q4_0"]),
    default="bf16",
    show_default=True,
    help="Type of keys and values: fp8 in vLLM and SGLang, q8_0 and q4_0 in llama.cpp.",
)
@click.option("--sequences", type=click.IntRange(min=1), default=1, show_default=True, help="Run in parallel.")
@click.option(
    "--tensor-parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Devices that share the model; names such as --hardware 2x-h100 already set it.",
)
@experts_option
@json_option
def command(
    model: Model,
    recipes: "Sequence[Recipe]",
    context: tuple[int, ...] | None,
    machines: "tuple[Hardware, ...]",
    engine: str | None,
    cache_type: str,
    sequences: int,
    tensor_parallel: int,
    experts: int | None,
    as_json: bool,
) -> int:
    """Print the memory that each FORMAT of MODEL takes by context, and the longest context that fits on a machine.

    MODEL is a checkpoint (a folder or hub id, whose formats are planned to the byte), an artifact (a quantized folder,
    or a GGUF file), or a config.json alone. All sizes are per device. A FORMAT that cannot be made from MODEL is listed
    with the reason, and the exit code is not 0 if it was named.
    """
    from cards.budget.caches.attention import notes
    from cards.budget.caches.engine_caches import CACHE_TYPES
    from cards.budget.device_memory import longest_trained
    from cards.budget.variant_budgets import Asked, cache_budgets, engines_of, variant_budget
    from sixfold.errors import UsageError

    config, artifacts, known_how, code = _what_weighs(model, recipes, experts)
    trained = longest_trained(config)
    contexts = context or tuple(c for c in _DEFAULT_CONTEXTS if c <= trained) or (trained,)
    asked = Asked(contexts, machines, cache_type, sequences, tensor_parallel)
    known = tuple(e for e in _ENGINES if cache_type in CACHE_TYPES[e])
    if engine is not None:
        known = (engine,)
    caches, unknown = cache_budgets(config, known, asked)
    known = tuple(cache.engine for cache in caches)
    variants = [
        variant_budget(config, artifact.name, artifact.weights, e, asked)
        for artifact in artifacts
        for e in engines_of(artifact.engines, engine, known)
    ]
    unread = [
        f"{a.name} is read by {', '.join(a.engines)}, and by no engine that --engine and --cache-type allow"
        for a in artifacts
        if not engines_of(a.engines, engine, known)
    ]
    if artifacts and not variants and unread:
        raise UsageError("; ".join(unread), "name another --engine or --cache-type, or leave it out")
    if variants:
        caches = [cache for cache in caches if any(variant.engine == cache.engine for variant in variants)]
    remarks = [
        *known_how,
        *_of_projectors(artifacts),
        *notes(config),
        *_beyond(contexts, trained),
        *unknown,
        *unread,
        *(f"{m.title}: {m.note}" for m in machines if m.note),
    ]
    if as_json:
        print_json(_as_data(asked, caches, variants, remarks, trained))
        return code
    _show_caches(asked, caches)
    _show_variants(asked, variants)
    _show_longest(asked, variants, trained)
    estimates = dict.fromkeys(e for v in variants for memory in v.by_context for e in memory.estimates)
    remarks += [f"Estimate: {estimate}" for estimate in estimates]
    if remarks:
        heading("Notes")
    for remark in remarks:
        click.echo(f"  {remark}.")
    return code


def _what_weighs(
    model: Model, recipes: "Sequence[Recipe]", experts: int | None
) -> "tuple[Mapping[str, Any], list[Artifact], list[str], int]":
    """The config; every variant with the bytes of its tensors, read from an artifact or planned; notes on what is not
    known; and an exit code, not 0 where a format that was named cannot be made. For a config.json that says too little
    to plan formats, only the cache is known."""
    from cards.budget.as_shipped import mxfp4_bytes
    from cards.budget.stored_weights import Artifact, artifacts_at, read_config
    from cli.error_sentence import exit_code
    from cli.recipe_budgets import fitted
    from exporters.export.planning import plan_all
    from sixfold.artifact.plan import PROJECTOR
    from sixfold.errors import SixfoldError, UsageError
    from sixfold.model.bare_config import config_notes

    place = Path(model.location).expanduser()
    found = artifacts_at(place)
    named = click.get_current_context().get_parameter_source("formats") is ParameterSource.COMMANDLINE
    if found is not None:
        if experts is not None or named:
            raise UsageError(
                f"{place} is an artifact, whose format and experts are fixed", "leave FORMAT and --experts out"
            )
        return *found, [], 0
    try:
        source = model.describe(experts)
    except SixfoldError as error:
        config = read_config(place)
        if config is None or experts is not None:
            raise
        return config, [], [f"Weights are not counted: {error}".rstrip(".")], 0
    variants = []
    if (shipped := mxfp4_bytes(source.checkpoint)) is not None:
        variants.append(Artifact("as it ships (MXFP4)", shipped, ("vLLM", "SGLang")))
    refusals: dict[str, list[str]] = {}
    code = 0
    for entry in plan_all(source, fitted(source, recipes)):
        if entry.refusal is not None:
            why = (
                str(entry.refusal).removeprefix(f"{entry.recipe.name}: ").removeprefix(f"recipe {entry.recipe.name}: ")
            )
            refusals.setdefault(why.rstrip("."), []).append(entry.recipe.name)
            code = max(code, exit_code(entry.refusal) if named else 0)
        elif entry.plan is not None:
            weights = sum(tensor.nbytes for tensor in entry.plan.tensors)
            seeing = sum(tensor.nbytes for tensor in entry.plan.tensors if tensor.file.startswith(PROJECTOR))
            variants.append(Artifact(entry.recipe.name, weights, entry.recipe.engines, seeing))
    notes = [_sentence(note) for note in config_notes(source.checkpoint)]
    notes += [f"Cannot be made: {', '.join(names)}: {why}" for why, names in refusals.items()]
    return source.checkpoint.config, variants, notes, code


def _of_projectors(artifacts: "Sequence[Artifact]") -> list[str]:
    largest = max((artifact.projector for artifact in artifacts), default=0)
    what = f"Weights of GGUF files include {size(largest)} of the projector that llama.cpp sees with (mmproj-*.gguf)"
    return [f"{what}, and what it computes of a picture is not counted"] if largest else []


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:]


def _beyond(contexts: tuple[int, ...], trained: int) -> list[str]:
    if max(contexts) <= trained:
        return []
    return [f"The config allows {trained:,} tokens; a longer context needs its rotary embedding scaled"]


def _show_caches(asked: "Asked", caches: "Sequence[CacheBudget]") -> None:
    of = f" of {asked.sequences} sequences" if asked.sequences > 1 else ""
    heading(f"KV cache, {asked.cache_type}, in bytes{_each(asked)}")
    columns = ("engine", "per token", "full windows", "states", *(f"{c:,} tokens{of}" for c in asked.contexts))
    rows = []
    for cache in caches:
        growth = cache.growth
        more: str | int = growth.nbytes if growth.tokens == 1 else f"{growth.nbytes:,} for {growth.tokens}"
        rows.append((cache.engine, more, cache.constant.windows, cache.constant.states, *cache.by_context))
    print_table(columns, rows)


def _show_variants(asked: "Asked", variants: "Sequence[VariantBudget]") -> None:
    if not variants:
        return
    heading(f"Total memory, decimal: a GB is 1,000,000,000 bytes{_each(asked)}")
    columns = ("variant", "engine", "weights", *(f"{c:,} tokens" for c in asked.contexts))
    print_table(
        columns,
        [
            (v.name, v.engine, size(v.weights / asked.tensor_parallel), *(size(m.total) for m in v.by_context))
            for v in variants
        ],
    )


def _show_longest(asked: "Asked", variants: "Sequence[VariantBudget]", trained: int) -> None:
    if not variants or not asked.machines:
        return
    heading(f"Longest context that fits, in tokens ({trained:,} at most)")
    rows = [(v.name, v.engine, *(_longest(v, m.name) for m in asked.machines)) for v in variants]
    print_table(("variant", "engine", *(m.title for m in asked.machines)), rows)
    for variant in variants:
        for machine, reason in variant.refused.items():
            click.echo(f"  {variant.name} on {machine}: {reason}")


def _longest(variant: "VariantBudget", machine: str) -> str | int:
    if machine not in variant.longest:
        return "-"
    return variant.longest[machine] or "does not fit"


def _each(asked: "Asked") -> str:
    return f", on each of {asked.tensor_parallel} devices" if asked.tensor_parallel > 1 else ""


def _as_data(
    asked: "Asked",
    caches: "Sequence[CacheBudget]",
    variants: "Sequence[VariantBudget]",
    notes: Sequence[str],
    trained: int,
) -> dict[str, Any]:
    return {
        "unit": "bytes of one device",
        "contexts": list(asked.contexts),
        "longest_of_the_config": trained,
        "sequences": asked.sequences,
        "tensor_parallel": asked.tensor_parallel,
        "caches": [asdict(cache) for cache in caches],
        "variants": [
            asdict(variant)
            | {"by_context": [asdict(memory) | {"total": memory.total} for memory in variant.by_context]}
            for variant in variants
        ],
        "notes": list(notes),
    }
