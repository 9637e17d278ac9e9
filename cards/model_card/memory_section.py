"""A card's memory section: figures of cards.budget, each with the config, weights and machine it comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cards.budget.gguf_config import tensor_bytes
from cards.budget.hardware import ENGINES
from cards.facts.traced import Derived, Fact, Value, derived, shown
from cards.facts.variant import Variant, table
from sixfold.errors import SixfoldError


@dataclass(frozen=True)
class Amount:
    """One variant at one context: bytes on one device."""

    context: Value
    weights: Derived
    cache: Derived
    buffers: Derived
    total: Derived


@dataclass(frozen=True)
class Machine:
    """contexts: for each variant the longest that fits, None where the weights alone do not."""

    title: str
    contexts: tuple[Derived | None, ...]


@dataclass(frozen=True)
class Offload:
    """What it takes to leave all experts in the computer's memory, at the shortest context listed. flags: of
    memory.yaml. rows: for each variant, bytes of its experts, and bytes on the GPU."""

    flags: Fact
    context: Value
    rows: tuple[tuple[Variant, Derived, Derived], ...]


@dataclass(frozen=True)
class MemorySection:
    """engine: that the figures are of. amounts: for each variant, at the same contexts. per_token: what a token more
    takes. smaller: the cache at the longest context in another type, with the flags for it; None where the engine has
    none. note: which parts are estimates. offload: None of models without experts, and in other engines than
    llama.cpp."""

    engine: Fact
    contexts: tuple[Value, ...]
    amounts: tuple[tuple[Amount, ...], ...]
    per_token: Derived
    smaller: tuple[Derived, Fact] | None
    machines: tuple[Machine, ...]
    note: Derived
    offload: Offload | None

    @property
    def fits_everywhere(self) -> bool:
        """Whether every variant reaches the longest context on every machine."""
        found = [context for machine in self.machines for context in machine.contexts]
        return bool(found) and all(c is not None and c.value == self.contexts[-1].value for c in found)


def memory_section(mine: Sequence[Variant], engines: Fact) -> MemorySection | None:
    """engines: that read the variants, of formats.yaml. None where no figure can be computed: the config is not there,
    or its kind of attention is not known."""
    engine = next((engine for engine in engines if engine.value in ENGINES), None)
    config = mine[0].config
    if engine is None or not config:
        return None
    try:
        return _section(mine, config, engine)
    except SixfoldError:
        return None


def _section(mine: Sequence[Variant], config: Fact, engine: Fact) -> MemorySection:
    settings = table("memory.yaml")
    longest = derived("longest_trained", config)
    contexts: tuple[Value, ...] = (*(c for c in settings.contexts if c.value < longest.value), longest)
    amounts = tuple(tuple(_amount(v, config, engine, c) for c in contexts) for v in mine)
    cache = settings.caches[engine.value]
    return MemorySection(
        engine=engine,
        contexts=contexts,
        amounts=amounts,
        per_token=derived("cache_per_token", config, engine),
        smaller=_smaller(config, engine, longest, cache),
        machines=tuple(_machines(mine, config, engine)),
        note=derived("estimates", config, mine[0].weights, engine, longest),
        offload=_offload(mine, config, engine, contexts[0]),
    )


def _amount(variant: Variant, config: Fact, engine: Fact, context: Value) -> Amount:
    asked = (config, variant.weights, engine, context)
    return Amount(
        context, variant.weights, derived("kv_cache", *asked), derived("buffers", *asked), derived("memory", *asked)
    )


def _offload(mine: Sequence[Variant], config: Fact, engine: Fact, context: Value) -> Offload | None:
    if engine != "llama.cpp":
        return None
    rows = []
    for variant in mine:
        paths = [variant.artifact.folder / name for name in variant.artifact.weight_files]
        if not all(path.is_file() for path in paths):
            return None
        experts = derived("expert_bytes", *(Fact(tensor_bytes(path), path.name) for path in paths))
        if not experts:
            return None
        beside = derived("memory_beside_experts", config, variant.weights, experts, engine, context)
        rows.append((variant, experts, beside))
    return Offload(table("memory.yaml").offload, context, tuple(rows))


def _smaller(config: Fact, engine: Fact, context: Value, cache: Fact) -> tuple[Derived, Fact] | None:
    figure = derived("cache_of_type", config, engine, context, cache.type)
    try:
        return (figure, cache.flags) if figure.value else None
    except SixfoldError:
        return None


def _machines(mine: Sequence[Variant], config: Fact, engine: Fact) -> Iterator[Machine]:
    """For each kind of machine, the one with the fewest devices that any of the variants fits on."""
    for entry in table("hardware.yaml"):
        if engine.value not in entry.engines or not all(_is_meant_for(v, str(entry.name.value)) for v in mine):
            continue
        for count in entry.devices or [None]:
            asked = (entry.name,) if count is None or count == 1 else (entry.name, count)
            found = [derived("longest_context", config, v.weights, engine, *asked) for v in mine]
            if any(figure.value for figure in found):
                title = shown(entry.title) if len(asked) == 1 else f"{shown(asked[1])} x {shown(entry.title)}"
                yield Machine(title, tuple(figure if figure.value else None for figure in found))
                break


def _is_meant_for(variant: Variant, machine: str) -> bool:
    """Whether the recipe's `hardware` covers a machine: all are where it names none, or chips.yaml has not heard of
    it."""
    meant = set(variant.artifact.manifest["recipe"].get("hardware", []))
    chips = [words for start, words in table("chips.yaml").value.items() if machine.startswith(start)]
    return not meant or not chips or bool(meant & set(chips[0]))
