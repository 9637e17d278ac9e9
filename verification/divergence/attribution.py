"""Which parts of a model cost most: its divergence with one part as the artifact holds it and the rest as the source.

A part is one kind of Linear in a run of neighboring layers, of the size that a recipe can keep in 16 bits: engines
take fused Linears and the experts of a layer together, llama.cpp takes every stack by itself. Where scales were moved
between norms and Linears (AWQ), only what they were moved in can be exchanged: attention and feed-forward, each with
its norm and all that reads it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.texts.held_out_text import Windows
from verification.divergence.activations import Rule
from verification.divergence.divergence import Reference, scored
from verification.reading.weights import Weights

BLOCKS = 4
"""Largest number of runs of layers that are measured separately."""

_STEPS = 2000

_EXPERT = re.compile(r"\.experts\.\d+\.")
_LAYER = re.compile(r"\.layers\.\d+\.")


@dataclass(frozen=True)
class Part:
    """name: "experts, layers 0-15". weights: on-disk tensor names. keep: the recipe's `keep` that leaves it in 16 bits.
    saved: bytes that quantizing it saves."""

    name: str
    weights: frozenset[str]
    keep: str
    saved: int


@dataclass(frozen=True)
class Cost:
    """kl: mean KL with this part alone as the artifact holds it."""

    part: Part
    kl: float


@dataclass(frozen=True)
class Proposal:
    """kl: what is expected of it, if costs add up. extra: bytes more than now."""

    parts: tuple[Part, ...]
    kl: float
    extra: int


class _Mixed:
    """The source's weights but for `chosen`, which are the artifact's."""

    def __init__(self, weights: Weights, source: Source, chosen: frozenset[str]) -> None:
        self._weights = weights
        self._source = source
        self._chosen = chosen

    def names(self) -> Iterable[str]:
        return self._source.checkpoint.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.checkpoint.tensors[name].shape

    def encoding(self, name: str) -> str:
        return self._weights.encoding(name) if name in self._chosen else ""

    def dtype(self, name: str) -> str:
        return self._source.checkpoint.tensors[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        if name in self._chosen:
            return self._weights.read(name, start, stop)
        shape = self.shape(name)
        rows = shape[0] if shape else 1
        return self._source.checkpoint.read(TensorSlice(name, start, rows if stop is None else stop)).float()


def parts_of_model(
    source: Source, weights: Weights, nbytes: Mapping[str, int], *, experts_together: bool
) -> tuple[Part, ...]:
    """Of all Linears that the artifact holds quantized. nbytes: of each quantized weight with its scales.

    experts_together: whether the experts of a layer can only be kept all or none.
    """
    return _grouped(source, _quantized(source, weights), nbytes, lambda linear: _kind(linear, experts_together))


def _quantized(source: Source, weights: Weights) -> list[Linear]:
    held = set(weights.names())
    linears = source.architecture.linears
    return [linear for linear in linears if linear.weight in held and weights.encoding(linear.weight)]


def _grouped(
    source: Source, linears: Sequence[Linear], nbytes: Mapping[str, int], kind_of: Callable[[Linear], str]
) -> tuple[Part, ...]:
    count = source.architecture.layers
    size = -(-count // BLOCKS)
    groups: dict[tuple[str, int], list[Linear]] = {}
    for linear in linears:
        if linear.layer is not None:
            groups.setdefault((kind_of(linear), linear.layer // size), []).append(linear)
    parts = []
    for (kind, block), group in groups.items():
        first, last = block * size, min((block + 1) * size, count) - 1
        layers = f"layer {first}" if first == last else f"layers {first}-{last}"
        plain = sum(2 * prod(source.checkpoint.tensors[linear.weight].shape) for linear in group)
        saved = plain - sum(nbytes[linear.weight] for linear in group)
        chosen = frozenset(linear.weight for linear in group)
        parts.append(Part(f"{kind}, {layers}", chosen, _pattern(group), saved))
    return tuple(parts)


def smoothed_parts(source: Source, weights: Weights, nbytes: Mapping[str, int]) -> tuple[Part, ...]:
    """`parts_of_model` for an artifact whose weights were rescaled together with norms."""
    architecture, held = source.architecture, set(weights.names())
    attention = {linear.name for linear in architecture.linears if linear.role == "attention"}

    def kind(linear: Linear) -> str:
        return "attention" if linear.name in attention else "feed-forward"

    kinds = {linear.weight: (kind(linear), linear.layer) for linear in architecture.linears}
    for norm in architecture.norms:
        kinds[norm.weight] = ("attention" if attention.issuperset(norm.readers) else "feed-forward", norm.layer)
    parts = []
    for part in _grouped(source, _quantized(source, weights), nbytes, kind):
        own = {kinds[name] for name in part.weights}
        together = {name for name, belongs in kinds.items() if belongs in own}
        biases = {f"{name.removesuffix('weight')}bias" for name in together}
        parts.append(replace(part, weights=frozenset((together | biases) & held)))
    return tuple(parts)


def _kind(linear: Linear, experts_together: bool) -> str:
    if linear.role == "expert":
        return "experts" if experts_together else f"experts' {linear.part}"
    if linear.role == "attention":
        return "attention output" if not linear.fused else "attention inputs"
    return {"shared_expert": "shared experts", "mlp": "dense layers"}.get(linear.role, linear.role)


def _pattern(linears: Sequence[Linear]) -> str:
    """A regular expression that finds these Linears by name and no other."""
    numbers = [str(n) for n in sorted({linear.layer for linear in linears if linear.layer is not None})]
    layers = numbers[0] if len(numbers) == 1 else f"({'|'.join(numbers)})"
    shapes = dict.fromkeys(_EXPERT.sub(".experts.#.", _LAYER.sub(".layers.%.", linear.name)) for linear in linears)
    words = [re.escape(shape).replace("%", layers).replace(r"\#", r"\d+") for shape in shapes]
    return rf"^({'|'.join(words)})$"


def attribute(
    source: Source,
    weights: Weights,
    rules: Mapping[str, Rule],
    parts: Sequence[Part],
    windows: Windows,
    reference: Reference,
    progress: Progress,
) -> tuple[Cost, ...]:
    """Costliest first. One run of the model for each part."""
    costs = []
    for part in parts:
        own = {name: rule for name, rule in rules.items() if name in part.weights}
        found = scored(source, _Mixed(weights, source, part.weights), own, windows, reference, progress).score
        costs.append(Cost(part, found.mean_kl))
    return tuple(sorted(costs, key=lambda cost: -cost.kl))


def propose(costs: Sequence[Cost], total: float, target: float) -> Proposal | None:
    """The fewest bytes that bring the mean KL from `total` to `target`; None where keeping every part would not.

    Costs are taken as shares of the total: errors of different Linears are independent, and KL is quadratic in them.
    Shares are counted in _STEPS, rounded down, so that a proposal never promises too much.
    """
    whole = sum(cost.kl for cost in costs)
    if not whole:
        return None
    cheapest: dict[int, tuple[int, tuple[Cost, ...]]] = {0: (0, ())}
    for cost in costs:
        share = int(_STEPS * cost.kl / whole)
        for steps, (extra, kept) in list(cheapest.items()):
            with_it = extra + cost.part.saved, (*kept, cost)
            if steps + share not in cheapest or with_it[0] < cheapest[steps + share][0]:
                cheapest[steps + share] = with_it
    enough = [
        Proposal(tuple(cost.part for cost in kept), total * (1 - sum(cost.kl for cost in kept) / whole), extra)
        for steps, (extra, kept) in cheapest.items()
        if total * (1 - steps / _STEPS) <= target or len(kept) == len(costs)
    ]
    fitting = [proposal for proposal in enough if proposal.kl <= target]
    return min(fitting, key=lambda proposal: proposal.extra, default=None)


def ladder(costs: Sequence[Cost], total: float) -> tuple[Proposal, ...]:
    """The cheapest ways to bring the mean KL to four fifths of `total`, to three, and so on; each once, the smallest
    first."""
    found = (propose(costs, total, total * fifths / 5) for fifths in (4, 3, 2, 1))
    return tuple(dict.fromkeys(proposal for proposal in found if proposal is not None))
