"""An artifact's weights that are compared with the source's as they are read to be run: each is read once for both."""

from collections.abc import Collection

import torch

from verification.reading.held_source import HeldSource
from verification.reading.weights import CodedWeights, Wrapped, read_on
from verification.weights.weight_check import Comparison


class ComparedWeights(Wrapped):
    """See verification.reading.weights.Compared and OnDevice."""

    def __init__(self, weights: CodedWeights, held: HeldSource, comparison: Comparison) -> None:
        super().__init__(weights)
        self._held = held
        self.comparison = comparison
        self._kept: dict[str, torch.Tensor] = {}

    def prepare(self, layer: int | None, wanted: Collection[str]) -> None:
        """Compares a layer, once, and keeps those tensors of it that are `wanted` until they are read."""

        def keep(name: str, values: torch.Tensor) -> None:
            if name in wanted:
                self._kept[name] = values

        self._kept.clear()
        if self.comparison.is_left(layer):
            self._held.hold(layer)
            self.comparison.compare(layer, keep)

    def is_source(self, layer: int | None) -> bool:
        return self.comparison.is_exact(layer)

    @property
    def failed(self) -> bool:
        return self.comparison.failed

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        kept = self._kept.pop(name, None)
        return read_on(self._weights, device, name) if kept is None else kept
