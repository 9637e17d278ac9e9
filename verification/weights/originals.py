"""What the source has in the place of each of an artifact's tensors: experts that were reordered put in that order, and
scales that an export recorded moved as it moved them."""

from collections.abc import Sequence

import torch

from verification.reading.held_source import HeldSource
from verification.reading.plain_rounding import rounded_to_dtype
from verification.reading.weights import CodedWeights
from verification.weights.recorded_scales import RecordedScales
from verification.weights.reordered import Places


class Originals:
    def __init__(self, weights: CodedWeights, held: HeldSource, recorded: RecordedScales | None) -> None:
        self._weights = weights
        self._held = held
        self._recorded = recorded
        self.places = Places(weights, held.source)

    def has_recorded(self, name: str) -> bool:
        """Whether scales were moved into the tensor, and recorded."""
        return self._recorded is not None and self._recorded.touches(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """float32, rows [start, stop), on the device that the source is held on."""
        there, rows = self.places.name(name), self.places.rows(name)
        if rows is not None:
            return self._held.read(there).float()[rows.to(self._held.device)[start:stop]]
        original = self._held.read(there, start, stop).float()
        moved = None if self._recorded is None else self._recorded.moved(there, original, start)
        if moved is None:
            return original
        return moved if self._weights.encoding(name) else rounded_to_dtype(moved, self._weights.dtype(name))

    def on_cpu(self, name: str) -> torch.Tensor:
        return self.read(name).cpu()

    def stack(self, names: Sequence[str]) -> torch.Tensor:
        """float32 [matrices * rows, columns]: several of one shape under one another."""
        if self._recorded is None and all(self.places.rows(name) is None for name in names):
            return torch.cat([self._held.read(self.places.name(name)) for name in names]).float()
        return torch.cat([self.read(name) for name in names])
