"""Which scales an artifact's maker moved between norms and Linears without leaving a record of them, as its weights
tell."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

import torch

from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from verification.reading.weights import CodedWeights
from verification.weights.code_check import at_an_end, nearest, placement
from verification.weights.format_error import EXACT, measure
from verification.weights.originals import Originals
from verification.weights.smoothing import (
    CLOSE,
    COARSE,
    FINE,
    Factors,
    Heads,
    agrees,
    applied,
    fit,
    is_producer,
    middle,
    norm_ratio,
    producer_of,
    uncertainty,
    undoes,
    undone,
    with_doubts,
    with_errors,
)
from verification.weights.smoothing import EXACT as EXACT_FACTORS
from verification.weights.weight_numbers import UNREADABLE

SMOOTHED = ("int4", "int8", "fp8")
"""Encodings of formats in which scales are moved between norms and Linears."""

ROUNDED = 2.0**-8
"""Relative precision of BF16: plain tensors whose type changed."""

_FINE = ("int8", "fp8")
"""Those of eight bits."""

_SMOOTHED_CHANNELS = 0.5
"""Share of a norm's channels that moving scales changes at least; fewer are damage."""


class MovedScales:
    """may: whether the artifact's maker may have moved any. compensated: whether errors were made up for. Reads weights
    by itself, and computes on the CPU."""

    def __init__(
        self, weights: CodedWeights, source: Source, originals: Originals, *, may: bool, compensated: bool
    ) -> None:
        self._weights = weights
        self._source = source
        self._originals = originals
        self._compensated = compensated
        self.may = may
        self._linears = {linear.weight: linear for linear in source.architecture.linears}
        self._norms = {norm.weight: norm for norm in source.architecture.norms}

    @cached_property
    def were(self) -> bool:
        """Whether norms, or Linears in 16 bits whose outputs reach quantized ones, changed in a format that smoothing
        goes with; in all others such a change is a mistake."""
        if not self.may:
            return False
        held = {name for name in self._weights.names() if name in self._source.checkpoint.tensors}
        quantized = {name for name in held if self._weights.encoding(name) in SMOOTHED}
        linears = {linear.name: linear for linear in self._linears.values()}
        readers = [self._linears[name] for name in quantized if name in self._linears]
        producers = {found.weight for linear in readers if (found := producer_of(linear, linears)) is not None}
        movable = (self._norms.keys() | producers) & held - quantized if quantized else set()
        return any(
            self._fits(name) and not torch.equal(self._weights.read(name), self._originals.on_cpu(name))
            for name in sorted(movable)
        )

    @cached_property
    def heads(self) -> Heads:
        config = self._source.checkpoint.config
        text = config.get("text_config")
        config = {**config, **text} if isinstance(text, Mapping) else config
        if config.get("kv_lora_rank"):
            return Heads(int(config.get("v_head_dim") or 0), int(config.get("qk_nope_head_dim") or 0))
        width, heads = config.get("hidden_size") or 0, config.get("num_attention_heads") or 1
        return Heads(int(config.get("head_dim") or width // heads))

    def factors(self, linear: Linear, weight: torch.Tensor, original: torch.Tensor) -> tuple[Factors, torch.Tensor]:
        """What was moved into a quantized Linear, how surely, and its weight without."""
        encoding = self._weights.encoding(linear.weight)
        codes = self._weights.codes(linear.weight) if encoding else None
        inner = torch.ones((), dtype=torch.bool) if codes is None else ~at_an_end(codes)
        held, source = weight * inner, original * inner  # what was clipped is no measure of a factor
        found = fit(held, source, with_rows=is_producer(linear))
        found = with_errors(found, held, source, None if codes is None else codes.scale)
        tolerance = FINE if encoding in _FINE else COARSE
        if codes is not None and encoding not in _FINE:
            expected = applied(found, original)
            tolerance = CLOSE if placement(codes, expected, uncertainty(found)).is_nearest else COARSE
            found = with_doubts(found, held, nearest(codes, expected) * inner, expected * inner)
        found = replace(found, tolerance=COARSE if self._compensated else tolerance)
        return found, undone(found, weight)

    def complete(self, layer: int | None, factors: dict[str, Factors]) -> None:
        """Add what pairs with Linears that are known to be rescaled: the one before, whose rows, or the one behind,
        whose columns make up for it, may be scaled by so little that its own error does not tell."""
        linears = {linear.name: linear for linear in self._linears.values() if linear.layer == layer}
        pairs = [(other, found) for other in linears.values() if (found := producer_of(other, linears)) is not None]
        for reader, producer in pairs:
            for missing, other in ((reader, producer), (producer, reader)):
                held = missing.weight in self._weights.names() and self._fits(missing.weight)
                if other.name in factors and missing.name not in factors and held:
                    if self._weights.encoding(missing.weight) in SMOOTHED:
                        with suppress(*UNREADABLE):  # which has its own finding
                            factors[missing.name] = self._fitted(missing)

    def made_up_for(self, linear: Linear, found: Factors) -> bool:
        """Whether one factor for all of a Linear is what its norm, and the Linear before or behind it, make up for."""
        if not self.were:
            return False
        siblings = {other.name: other for other in self._linears.values() if other.layer == linear.layer}
        expected = self._divided_by(linear)
        before = producer_of(linear, siblings)
        behind = next((other for other in siblings.values() if producer_of(other, siblings) is linear), None)
        if before is not None:
            expected = expected / middle(self._fitted(before).columns / self._divided_by(before))
        if behind is not None:
            expected = expected / middle(self._fitted(behind).columns)
        return undoes(found, expected)

    def left_of(self, name: str, ratios: dict[str, torch.Tensor], factors: dict[str, Factors]) -> float | None:
        """What is left of the error of a plain tensor that differs by scales alone; the layer's own check then proves
        that they cancel. None where that is not what happened to it."""
        norm, linear = self._norms.get(name), self._linears.get(name)
        if not self.were:
            return None
        weight, original = self._weights.read(name), self._originals.on_cpu(name)
        if name.endswith(".bias"):
            return self._left_of_bias(name.removesuffix("bias") + "weight", weight, original)
        if norm is not None:
            if float((weight != original).float().mean()) < _SMOOTHED_CHANNELS:
                return None
            ratios[name] = norm_ratio(norm, weight, original)
            return 0.0
        if linear is None:
            return None
        found = fit(weight, original, with_rows=is_producer(linear))
        left = measure(undone(found, weight), original, EXACT).relative
        if left > 2 * ROUNDED:
            return None
        factors[linear.name] = replace(found, exact=True, tolerance=EXACT_FACTORS)
        return left

    def _left_of_bias(self, owner: str, bias: torch.Tensor, original: torch.Tensor) -> float | None:
        """The same of the bias of a norm, which is divided as its weight is, or of a Linear whose rows are scaled.
        owner: the weight's name."""
        norm, linear = self._norms.get(owner), self._linears.get(owner)
        if norm is not None and owner in self._weights.names():
            ratio = norm_ratio(norm, self._weights.read(owner), self._originals.on_cpu(owner))
            left = measure(bias * ratio.nan_to_num(1.0), original, EXACT).relative
            return left if left <= 2 * ROUNDED else None
        if linear is None or owner not in self._weights.names() or not is_producer(linear):
            return None
        rows = self._fitted(linear).rows
        ratio = torch.where(original != 0, bias / original, torch.nan)
        return 0.0 if rows is not None and agrees(ratio, rows) else None

    def _fitted(self, linear: Linear) -> Factors:
        name = linear.weight
        return self.factors(linear, self._weights.read(name), self._originals.on_cpu(name))[0]

    def _divided_by(self, linear: Linear) -> torch.Tensor:
        """float32 [in]: what the norm before a Linear was divided by; one where it reads no norm."""
        norm = self._norms.get(linear.norm or "")
        if norm is None or norm.weight not in self._weights.names():
            return torch.ones(linear.in_features)
        return norm_ratio(norm, self._weights.read(norm.weight), self._originals.on_cpu(norm.weight))

    def _fits(self, name: str) -> bool:
        return tuple(self._weights.shape(name)) == self._source.checkpoint.tensors[name].shape
