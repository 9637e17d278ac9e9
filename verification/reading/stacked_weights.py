"""An artifact's weights to be run and not compared: those of a layer that are stored alike are dequantized together."""

from collections.abc import Collection
from math import prod

import torch

from verification.reading.stack import in_stacks
from verification.reading.weights import CodedWeights, Wrapped, read_on


class StackedWeights(Wrapped):
    """See verification.reading.weights.OnDevice. device: where they are wanted."""

    def __init__(self, weights: CodedWeights, device: torch.device) -> None:
        super().__init__(weights)
        self._device = device
        self._kept: dict[str, torch.Tensor] = {}

    def prepare(self, wanted: Collection[str]) -> None:
        """Keeps those of `wanted` that are stored alike until they are read. Raises as `read` does."""
        self._kept.clear()
        keys = {name: self._weights.stack_of(name) for name in sorted(wanted) if self.encoding(name)}
        tensors = [(name, key, prod(self.shape(name))) for name, key in keys.items() if key is not None]
        for _, names in in_stacks(tensors, self._device):
            if len(names) > 1:  # one alone is dequantized as it is read
                values = self._weights.stack(names, self._device).values
                self._kept |= zip(names, values.chunk(len(names)), strict=True)

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        kept = self._kept.pop(name, None)
        return read_on(self._weights, device, name) if kept is None else kept
