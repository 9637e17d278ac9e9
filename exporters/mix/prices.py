"""What damage of each part costs the model: measured by probes (exporters/mix/probe.py), and supposed where it was not.

Supposed prices are only for models that could not be probed: those whose statistics come from an importance matrix, and
families whose layers hand on more than hidden states.
"""

from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from sixfold.statistics.damages import Damages
from sixfold.statistics.statistics import Statistics, starred

_EMBEDDINGS = 1.0
_LAYERS = 0.4


def prices(source: Source, damages: Damages) -> dict[str, float]:
    """Of every part of `damages`: damage times price adds up over parts."""
    found = {name: part.price for name, part in damages.parts.items() if part.price}
    if found:
        usual = sorted(found.values())[len(found) // 2]
        return {name: found.get(name, usual) for name in damages.parts}
    linears = {part_name(linear): linear for linear in source.architecture.linears}
    return {name: _supposed(linears.get(name), part.alignment) for name, part in damages.parts.items()}


def _supposed(linear: Linear | None, alignment: float) -> float:
    """linear: None of the embeddings. A head's outputs have a large mean that no probability depends on, and errors
    that reach the logits as they are: they count by alignment."""
    if linear is None:
        return _EMBEDDINGS
    return alignment if linear.role == "lm_head" else _LAYERS


def part_name(linear: Linear) -> str:
    """What damages.json calls the part that the Linear belongs to."""
    return starred(linear.name, linear.expert)


def expert_shares(statistics: Statistics, layer: int) -> list[float] | None:
    """What each expert of the layer adds to the hidden state, as the sum over tokens of its gated outputs' squared
    norms; None where the calibration saw no experts there, or holds no more than an importance matrix."""
    if statistics.imatrix is not None or layer not in statistics.moe_layers():
        return None
    experts = statistics.experts_of(layer)
    gate = experts.gate_sum / experts.routed.clamp(min=1)
    return [float(value) for value in gate.square() * experts.norm_sq_sum]
