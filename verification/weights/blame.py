"""What is said of a tensor that is too far from its source, and what it holds instead where that can be told."""

from collections.abc import Callable

import torch

from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source
from verification.finding import EXPORT_AGAIN, Finding
from verification.weights.format_error import Limit, WeightError

_LOOK_FOR = 12
"""Findings for which the whole layer is searched for what the tensor holds instead."""


class Blame:
    """layer_of: the decoder layer of a tensor, None outside of them."""

    def __init__(self, source: Source, layer_of: Callable[[str], int | None]) -> None:
        self._source = source
        self._layer_of = layer_of
        self._searched = 0

    def finding(
        self,
        name: str,
        encoding: str,
        error: WeightError,
        limit: Limit,
        weight: torch.Tensor | None,
        held_in: str = "",
    ) -> Finding:
        """weight: float32 on the CPU, what is held; None where that is no other matrix of the source. held_in: the
        stored matrix that the error is of, where the tensor is in several."""
        other = self._instead(name, weight) if weight is not None and error.relative > 0.5 else None
        if other is not None:
            what = f"it holds the weights of {other}"
            consequence = "one matrix is in the place of another: readable but damaged text"
        elif not encoding:
            what = f"it differs from the source by {error.relative:.3g} of its size, and it is not quantized"
            consequence = "the model computes something else"
        elif error.relative > limit.relative and error.relative > 2 * limit.relative:
            off = f"{held_in or 'it'} is off by {error.relative:.3g} of its size"
            what = f"{off}, where {encoding} allows {limit.relative:g}"
            consequence = "the model computes something else: readable but damaged text"
        else:
            place = f"row {error.row}, column {error.column}" + (f" of {held_in}" if held_in else "")
            what = (
                f"the block at {place} is off by {error.block:.3g} of its largest"
                f" weight, where {encoding} allows {limit.block:g} (and the tensor by {error.relative:.3g} of its size,"
                f" where it allows {limit.relative:g})"
            )
            consequence = "these weights are wrong: a scale is damaged, or the rounding is"
        return Finding("weights.error", name, what, consequence, EXPORT_AGAIN)

    def lost(self, name: str, at: tuple[int, int], held_in: str) -> Finding:
        """Of a group that is all zeros, by its row and first column."""
        row, column = at
        within = f" of {held_in}" if held_in else ""
        what = f"the group at row {row}, column {column}{within} is all zeros, and its weights are not small"
        consequence = "these weights are gone: a scale is damaged"
        return Finding("weights.error", name, what, consequence, EXPORT_AGAIN)

    def _instead(self, name: str, weight: torch.Tensor) -> str | None:
        """The tensor of the source that this one holds, looked for among those of its shape, its own layer first."""
        tensors = self._source.checkpoint.tensors
        self._searched += 1
        if self._searched > _LOOK_FOR or weight.dim() != 2:
            return None
        layer = self._layer_of(name)
        same = [n for n, t in tensors.items() if n != name and t.shape == tensors[name].shape]
        rows = min(16, weight.shape[0])
        part = weight[:rows]
        for other in sorted(same, key=lambda n: self._layer_of(n) != layer)[:4096]:
            original = self._source.checkpoint.read(TensorSlice(other, 0, rows)).float()
            if float((part - original).norm()) < 0.5 * float(original.norm()):
                return other
        return None
