"""Budgets of all variants of a model: memory by context, and the longest context on a machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cards.budget.caches.kv_cache import Constant, Growth, constant, growth, kv_cache
from cards.budget.device_memory import Memory, longest_context, memory
from cards.budget.hardware import Hardware
from sixfold.errors import SixfoldError, UsageError


@dataclass(frozen=True)
class Asked:
    """contexts: tokens of each sequence. machines: those to compute the longest context for.
    tensor_parallel: devices that share the model in the tables by context."""

    contexts: tuple[int, ...]
    machines: tuple[Hardware, ...]
    cache_type: str
    sequences: int
    tensor_parallel: int


@dataclass(frozen=True)
class CacheBudget:
    """The cache of one engine. by_context: bytes of all sequences on one device."""

    engine: str
    cache_type: str
    growth: Growth
    constant: Constant
    by_context: tuple[int, ...]


@dataclass(frozen=True)
class VariantBudget:
    """One artifact in one engine. weights: bytes of all its tensors. by_context: one for each context asked for.
    longest: name of the machine -> tokens, None where the model does not fit. refused: name of the machine -> why the
    engine cannot share the model among its devices. Machines that do not run the engine are in neither."""

    name: str
    engine: str
    weights: int
    by_context: tuple[Memory, ...]
    longest: Mapping[str, int | None]
    refused: Mapping[str, str]


def cache_budgets(
    config: Mapping[str, Any], engines: Sequence[str], asked: Asked
) -> tuple[list[CacheBudget], list[str]]:
    """Of every engine whose cache of the model is known, and why it is not of the others.
    Raises SixfoldError where it is of none, UsageError as `kv_cache`."""
    found: list[CacheBudget] = []
    unknown: list[SixfoldError] = []
    for engine in engines:
        try:
            found.append(_cache_budget(config, engine, asked))
        except UsageError:
            raise
        except SixfoldError as error:
            unknown.append(error)
    if not found:
        raise unknown[0]
    return found, [str(error).rstrip(".") for error in unknown]


def _cache_budget(config: Mapping[str, Any], engine: str, asked: Asked) -> CacheBudget:
    return CacheBudget(
        engine,
        asked.cache_type,
        growth(config, engine, cache_type=asked.cache_type, tensor_parallel=asked.tensor_parallel),
        constant(config, engine, cache_type=asked.cache_type, tensor_parallel=asked.tensor_parallel),
        tuple(
            kv_cache(
                config,
                engine,
                context,
                cache_type=asked.cache_type,
                sequences=asked.sequences,
                tensor_parallel=asked.tensor_parallel,
            )
            for context in asked.contexts
        ),
    )


def variant_budget(config: Mapping[str, Any], name: str, weights: int, engine: str, asked: Asked) -> VariantBudget:
    """Raises SixfoldError and UsageError as `memory`."""
    by_context = tuple(
        memory(
            config,
            weights,
            engine,
            context,
            cache_type=asked.cache_type,
            sequences=asked.sequences,
            tensor_parallel=asked.tensor_parallel,
        )
        for context in asked.contexts
    )
    longest: dict[str, int | None] = {}
    refused: dict[str, str] = {}
    for machine in asked.machines:
        if engine not in machine.engines:
            continue
        try:
            longest[machine.name] = longest_context(
                config, weights, engine, machine, cache_type=asked.cache_type, sequences=asked.sequences
            )
        except UsageError as error:
            refused[machine.name] = error.what
    return VariantBudget(name, engine, weights, by_context, longest, refused)


def engines_of(recipe_engines: Sequence[str], wanted: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """The engines that a variant is budgeted for: those it is made for, or of them the one that is wanted.

    recipe_engines: as a recipe lists them ("vLLM", "llama.cpp (after conversion)"), whose notes in brackets leave them
    out.
    """
    made_for = {engine.lower() for engine in recipe_engines}
    return tuple(engine for engine in known if engine in made_for and wanted in (None, engine))
