"""Experts in another order than the source's: harmless where the router's rows, its bias and every expert moved along.

A router's rows tell the order; one expert tells whether the others followed. Each is then compared with the expert that
it is.
"""

import re
from collections.abc import Mapping

import torch

from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source
from verification.finding import Finding
from verification.reading.weights import CodedWeights
from verification.weights.weight_numbers import UNREADABLE

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(.+)")
_LIKE = 0.5
"""Relative error below which an expert is taken for another, whatever it was rounded to."""


def orders(weights: CodedWeights, source: Source) -> Mapping[str, torch.Tensor]:
    """By the name of a router's weight: which expert of the source stands in each place, int64 [experts]. Of those
    alone whose experts moved along."""
    held = set(weights.names())
    found = {}
    for linear in source.architecture.linears:
        if linear.role != "router" or linear.weight not in held or weights.encoding(linear.weight):
            continue
        try:
            order = _order(weights.read(linear.weight), _read(source, linear.weight))
        except UNREADABLE:
            continue
        if order is not None and _followed(weights, source, linear.layer, order, held):
            found[linear.weight] = order
    return found


def _order(rows: torch.Tensor, original: torch.Tensor) -> torch.Tensor | None:
    if rows.shape != original.shape or torch.equal(rows, original):
        return None
    places: dict[bytes, int] = {row.numpy().tobytes(): place for place, row in enumerate(original)}
    order = [places.get(row.numpy().tobytes(), -1) for row in rows]
    return torch.tensor(order) if sorted(order) == list(range(len(original))) else None


def _followed(weights: CodedWeights, source: Source, layer: int | None, order: torch.Tensor, held: set[str]) -> bool:
    for linear in source.architecture.linears:
        expert = _EXPERT.fullmatch(linear.weight)
        if linear.layer != layer or expert is None or linear.weight not in held:
            continue
        place = int(expert[2])
        if int(order[place]) == place:
            continue
        there = f"{expert[1]}.{int(order[place])}.{expert[3]}"
        original = _read(source, there)
        return float((weights.read(linear.weight) - original).norm()) < _LIKE * float(original.norm())
    return False


class Places:
    """Where the source has what an artifact holds under a name, in layers whose experts were reordered."""

    def __init__(self, weights: CodedWeights, source: Source) -> None:
        self._orders = orders(weights, source)
        layers = {linear.weight: linear.layer for linear in source.architecture.linears}
        by_layer = {layers[router]: order for router, order in self._orders.items()}
        self._experts = {
            name: by_layer[layer] for name, layer in layers.items() if layer in by_layer and _EXPERT.fullmatch(name)
        }
        self._rows = dict(self._orders)
        for bias in source.architecture.correction_biases:
            router = next((name for name in self._orders if _block(name) == _block(bias)), None)
            if router is not None:
                self._rows[bias] = self._orders[router]

    def name(self, name: str) -> str:
        order, found = self._experts.get(name), _EXPERT.fullmatch(name)
        return name if order is None or found is None else f"{found[1]}.{int(order[int(found[2])])}.{found[3]}"

    def rows(self, name: str) -> torch.Tensor | None:
        """Which rows of the source's tensor stand in each row, where that is another order."""
        return self._rows.get(name)

    def findings(self) -> list[Finding]:
        what = "its rows stand in another order than the source's, and its experts with them: the same model"
        return [
            Finding(
                "weights.reordered", name, what, "none: what is said of experts by number is another's", "", "warning"
            )
            for name in self._orders
        ]


def _block(name: str) -> str:
    """The layer that a router or its bias belongs to."""
    found = re.match(r"(.*layers\.\d+)\.", name)
    return found[1] if found else ""


def _read(source: Source, name: str) -> torch.Tensor:
    shape = source.checkpoint.tensors[name].shape
    return source.checkpoint.read(TensorSlice(name, 0, shape[0] if shape else 1)).float()
