"""How much a relative error of one part's outputs costs the model, from statistics alone.

Attention and feed-forward blocks add their outputs to the hidden state one after the other. An error of a block's
outputs is a part E / R of the hidden state behind it, with E the energy (mean squared norm) of what the block adds and
R that of the sum so far. Each block behind it reads the hidden state and adds what it makes of the error; by AMPLIFIED
times the share that it adds. So errors of early layers, whose outputs are much of a small hidden state, cost most.

Of the parts within a block, _WITHIN says how much of a relative error of their outputs reaches the block's. These
numbers and AMPLIFIED are fitted to the KL divergence of two trained models with one part rounded at a time
(`python -m benchmarks.mixes --parts`); everything else is computed. The head's errors reach the logits directly, and
its outputs have a large mean that no probability depends on: they count by `alignment`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from sixfold.statistics.damages import Damages
from sixfold.statistics.statistics import Statistics, starred

AMPLIFIED = 1.8
"""By how much a block's relative error exceeds that of the hidden state which it reads."""
_LIMIT = 1.5
"""The most that a relative error costs, in relative errors of the last hidden state."""
_EMBEDDINGS = 1.0

_WITHIN = {"gate": 1.5, "up": 1.0, "v": 0.75, "k": 0.63, "q": 0.42}
_OTHER = 0.75
_EVERYWHERE = 0.4
"""Of a part in a model whose blocks' energies are not known."""

_ATTENTION = ("attention", "mixer")
_FEED_FORWARD = ("expert", "shared_expert", "mlp")


@dataclass(frozen=True)
class _Block:
    """One addition to the hidden state. within: by part, how much of its outputs' relative error is one of what its
    role adds. energies: of what each role adds."""

    within: Mapping[str, tuple[str, float]]
    energies: Mapping[str, float]

    @property
    def energy(self) -> float:
        return sum(self.energies.values())


def prices(source: Source, statistics: Statistics, damages: Damages) -> dict[str, float]:
    """Price of every part of `damages`: damage times price adds up over parts, in one unit."""
    linears = {part_name(linear): linear for linear in source.architecture.linears}
    embeddings = [name for name in damages.parts if name not in linears]
    found = dict.fromkeys(damages.parts, _EVERYWHERE)
    found.update(dict.fromkeys(embeddings, _EMBEDDINGS))
    for name, linear in linears.items():
        if linear.role == "lm_head" and name in damages.parts:
            found[name] = damages.parts[name].alignment
    state = sum(damages.parts[name].energy for name in embeddings)
    passed: list[tuple[_Block, float]] = []
    for block in _blocks(source, statistics, damages):
        state += block.energy
        passed.append((block, max(state, 1e-30)))
    grown = 1.0
    for block, behind in reversed(passed):
        for part, (role, within) in block.within.items():
            found[part] = within * min(_LIMIT, grown * block.energies[role] / behind)
        grown *= 1 + (AMPLIFIED - 1) * block.energy / behind
    return found


def part_name(linear: Linear) -> str:
    """What damages.json calls the part that the Linear belongs to."""
    return starred(linear.name, linear.expert)


def expert_shares(statistics: Statistics, layer: int) -> list[float] | None:
    """Mean over all tokens of what each expert of the layer adds to the hidden state, squared norm of its gated output;
    None where the calibration saw no experts there, or holds no more than an importance matrix."""
    if statistics.imatrix is not None or layer not in statistics.moe_layers():
        return None
    experts = statistics.experts_of(layer)
    gate = experts.gate_sum / experts.routed.clamp(min=1)
    tokens = statistics.manifest["tokens"]
    added = gate.square() * experts.norm_sq_sum / max(1, tokens["samples"] * tokens["length"])
    return [float(value) for value in added]


def _blocks(source: Source, statistics: Statistics, damages: Damages) -> Iterator[_Block]:
    """In the order in which they add. Those of which no writer is known are left out."""
    for layer in range(source.architecture.layers):
        of_layer = {part_name(li): li for li in source.architecture.linears if li.layer == layer}
        for roles in (_ATTENTION, _FEED_FORWARD):
            members = {n: li for n, li in of_layer.items() if li.role in roles and n in damages.parts}
            energies: dict[str, float] = {}
            for name, linear in members.items():
                if _writes(linear, members.values()):
                    routed = expert_shares(statistics, layer) if linear.role == "expert" else None
                    energy = damages.parts[name].energy if routed is None else sum(routed)
                    energies[linear.role] = energies.get(linear.role, 0.0) + energy
            within = {name: (li.role, _within(li, members.values())) for name, li in members.items()}
            if energies:
                yield _Block({name: known for name, known in within.items() if known[0] in energies}, energies)


def _writes(linear: Linear, block: Collection[Linear]) -> bool:
    """Whether its outputs are added to the hidden state: it reads no norm, is not fused with one that does, and is as
    wide as what the block reads."""
    read = {other.in_features for other in block if other.norm is not None}
    return linear.norm is None and not linear.fused and linear.out_features in read


def _within(linear: Linear, block: Collection[Linear]) -> float:
    if _writes(linear, block):
        return 1.0
    return _WITHIN.get(linear.part.removesuffix("_proj"), _OTHER)
