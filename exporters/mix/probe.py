"""What a relative error of each part's outputs costs: the KL divergence of the model with that part alone disturbed.

One walk over the layers with a few texts runs the model as it is and once for every probe: a kind of Linear in a run
of neighboring layers, rounded plainly to nine levels. A probe leaves the undisturbed run at its first layer, so that
the walk runs about half as many tokens as there are probes times tokens. A probe's KL over the sum of its parts' damage
is the price of damage there, whatever type it comes from: KL is quadratic in small errors. Nine levels do about the
damage of Q3_K, where most is at stake: larger errors of early layers cost less than in proportion.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from exporters.rounding.device import device
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.layer_runner import LayerRunner

PROBES = 64
"""At most, embeddings and head not counted."""
SAMPLES = 8
LENGTH = 256
"""Texts that are run, and tokens of each."""

TYPE = "probe"
"""What damages.json calls the rounding of probes."""
_BLOCK = 32
_HIGHEST = 4.0


class ProbeRounding:
    """Symmetric, to nine levels with a scale per 32 weights of a row (per row where 32 does not divide it)."""

    compensated = False

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None = None) -> torch.Tensor:
        width = _BLOCK if rows.shape[-1] % _BLOCK == 0 else rows.shape[-1]
        blocks = rows.reshape(-1, width)
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) / _HIGHEST
        return ((blocks / scale).round() * scale).reshape(rows.shape)


@dataclass(frozen=True)
class Probed:
    """A part of the model. kind: alike in all layers. layer: None outside of the layers. weights: on-disk tensors."""

    name: str
    kind: str
    layer: int | None
    weights: tuple[str, ...]


def measured_prices(
    source: Source, parts: Sequence[Probed], damage: Mapping[str, float], ids: torch.Tensor, progress: Progress
) -> dict[str, float]:
    """KL in nats per token for each unit of damage, by part; {} where layers hand on more than hidden states.

    damage: of each part at TYPE. ids: int64 [samples, length]. Parts whose weights transformers converts on loading are
    left out.
    """
    # One tensor an expert, also where a layer's are stored as one: probes name them so.
    runner = LayerRunner(source, dtype=torch.float32, device=device(), read_into=source.checkpoint.read_into)
    probes = _probes(parts, source.architecture.layers)
    step = max(1, len(ids) // SAMPLES)
    batches = [row[None, :LENGTH] for row in ids[::step][:SAMPLES]]
    with torch.inference_mode():
        divergences = _walk(runner, probes, batches, progress)
    prices = {}
    for probe, kl in zip(probes, divergences, strict=True):
        total = sum(damage[part.name] for part in probe)
        if kl is not None and total > 0:
            prices.update({part.name: kl / total for part in probe})
    return prices


Probe = tuple[Probed, ...]
"""Parts of one kind that are disturbed together."""


def _probes(parts: Sequence[Probed], layers: int) -> list[Probe]:
    kinds = {part.kind for part in parts if part.layer is not None}
    runs = max(1, min(layers, PROBES // max(1, len(kinds))))
    size = -(-layers // runs)
    found: dict[tuple[str, int | None], list[Probed]] = {}
    for part in parts:
        key = (part.name, None) if part.layer is None else (part.kind, part.layer // size)
        found.setdefault(key, []).append(part)
    return [tuple(group) for group in found.values()]


def _walk(
    runner: LayerRunner, probes: Sequence[Probe], batches: Sequence[torch.Tensor], progress: Progress
) -> list[float | None]:
    """KL of every probe; None of one that could not be disturbed."""
    states: dict[int, list[torch.Tensor]] = {}  # of probes that have left the undisturbed run
    disturbed: set[int] = set()
    with progress("probing", len(runner.layers), "layers") as advance:
        with runner.outside():
            plain = [runner.start(batch).cpu() for batch in batches]
            if runner.hands_on:
                return [None] * len(probes)
            for number, probe in enumerate(probes):
                with _disturbed(runner, None, _weights(probe, None)) as found:
                    if found:
                        disturbed.add(number)
                        states[number] = [runner.start(batch).cpu() for batch in batches]
        for layer, _ in runner.each_layer():
            for number, probe in enumerate(probes):
                weights = _weights(probe, layer)
                if number in states or weights:
                    with _disturbed(runner, layer, weights) as found:
                        disturbed |= {number} if found else set()
                        states[number] = _through(runner, layer, batches, states.get(number, plain))
            plain = _through(runner, layer, batches, plain)
            advance(1)
        totals = dict.fromkeys(disturbed, 0.0)
        with runner.outside():
            for place, batch in enumerate(batches):
                p = _logs(runner, batch, plain[place])
                for number in disturbed:
                    with _disturbed(runner, None, _weights(probes[number], None)):
                        q = _logs(runner, batch, states[number][place])
                    totals[number] += float((p.exp() * (p - q)).sum(-1).clamp(min=0).sum())
    tokens = sum(batch.numel() for batch in batches)
    return [totals[number] / tokens if number in disturbed else None for number in range(len(probes))]


def _through(
    runner: LayerRunner, layer: int, batches: Sequence[torch.Tensor], states: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    return [
        runner.run(layer, batch, state.to(runner.device)).cpu() for batch, state in zip(batches, states, strict=True)
    ]


def _logs(runner: LayerRunner, batch: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = runner.finish(batch, state.to(runner.device)).logits
    return logits.float().log_softmax(-1)


def _weights(probe: Probe, layer: int | None) -> frozenset[str]:
    return frozenset(name for part in probe if part.layer == layer for name in part.weights)


@contextmanager
def _disturbed(runner: LayerRunner, layer: int | None, weights: frozenset[str]) -> Iterator[bool]:
    """While open, these weights of a layer that is in place are rounded; yields whether there are any."""
    rounding = ProbeRounding()
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for source in runner.sources_of(layer) if weights else ():
        for piece in source.pieces:
            if piece.name in weights:
                values = piece.within(runner.model.get_parameter(source.parameter).data)
                held.append((values, values.clone()))
                values.copy_(rounding(values))
    try:
        yield bool(held)
    finally:
        for values, before in held:
            values.copy_(before)
