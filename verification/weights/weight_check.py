"""Every tensor of an artifact, dequantized, against its source: streamed, one tensor at a time.

What divergence sees in the outputs of the entire model, this finds by name: experts exchanged or permuted, gate and up
swapped, a scale of another matrix, one flipped bit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.plain_rounding import rounded_to_dtype
from verification.reading.stated_rounding import Kind
from verification.reading.stored_codes import Codes
from verification.reading.weights import CodedWeights
from verification.weights.code_check import Placement, at_an_end, nearest, placement
from verification.weights.compensated_codes import Targets
from verification.weights.format_error import EXACT, LIMITS, Limit, WeightError, loosened, measure
from verification.weights.recomputed_scales import Scales
from verification.weights.recorded_scales import RecordedScales
from verification.weights.reordered import Places
from verification.weights.smoothing import (
    CLOSE,
    COARSE,
    FINE,
    Factors,
    Heads,
    agrees,
    applied,
    check_cancels,
    fit,
    is_producer,
    middle,
    norm_ratio,
    producer_of,
    significant,
    uncertainty,
    undoes,
    undone,
    uniform,
    with_doubts,
    with_errors,
)
from verification.weights.smoothing import EXACT as EXACT_FACTORS
from verification.weights.weight_numbers import UNREADABLE, ZERO, numbers_of, unreadable
from verification.weights.weighted_error import lost_group, unexplained

_ROWS_BYTES = 64 << 20
"""About how much of a plain tensor is compared at a time."""

_ROUNDED = 2.0**-8
"""Relative precision of BF16: plain tensors whose type changed."""

_SUBNORMAL = 2.0**-24
"""The smallest number of F16."""

_SMOOTHED = ("int4", "int8", "fp8")
"""Encodings of formats in which scales are moved between norms and Linears."""

_FINE = ("int8", "fp8")
"""Those of eight bits."""

_NOTHING_TO_COMPENSATE = ("Q8_0",)
"""Types that are rounded to nearest in compensated files, too."""

_SMOOTHED_CHANNELS = 0.5
"""Share of a norm's channels that moving scales changes at least; fewer are damage."""

_UNKNOWN = Limit(0.5, 1.0, 0)
"""Of types that are in no table: wrong matrices still show."""

_SHIFT = 1e-5
"""Of a bias's largest value: what float32 makes of one number added to all."""

_COMPARED = 8
_ODD = 0.1
"""Of the weights of an encoding, so many at least, that may be unlike the others to be named for it."""

_LOOK_FOR = 12
"""Findings for which the whole layer is searched for what the tensor holds instead."""


@dataclass(frozen=True)
class TensorError:
    """One tensor's distance from the source. rescaled: measured after scales that were moved into it were undone."""

    name: str
    encoding: str
    relative: float
    block: float
    rescaled: bool

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class WeightReport:
    """errors: of every tensor of the source that the artifact holds, in the source's order."""

    errors: tuple[TensorError, ...]
    findings: tuple[Finding, ...]


def check_weights(
    weights: CodedWeights,
    source: Source,
    advance: Callable[[int], None],
    compensated: Targets | None = None,
    smooths: bool | RecordedScales = True,
) -> WeightReport:
    """advance: gets the number of weights after each tensor. compensated: of an artifact whose maker says that errors
    were compensated, so that neither codes nor scales need be those of the weights. smooths: whether its maker may have
    moved scales between norms and Linears, or which ones it recorded."""
    return _Comparison(weights, source, compensated, smooths).run(advance)


class _Comparison:
    def __init__(
        self, weights: CodedWeights, source: Source, compensated: Targets | None, smooths: bool | RecordedScales
    ) -> None:
        self._weights = weights
        self._source = source
        self._compensated = compensated
        self._recorded = smooths if isinstance(smooths, RecordedScales) else None
        self._smooths = smooths is True
        self._linears = {linear.weight: linear for linear in source.architecture.linears}
        self._norms = {norm.weight: norm for norm in source.architecture.norms}
        self._errors: list[TensorError] = []
        self._findings: list[Finding] = []
        self._scales = Scales()
        self._places = Places(weights, source)
        self._placements: dict[str, list[tuple[str, Placement]]] = {}
        self._searched = 0

    def run(self, advance: Callable[[int], None]) -> WeightReport:
        held = set(self._weights.names())
        by_layer: dict[int | None, list[str]] = {}
        for name in self._source.checkpoint.tensors:
            by_layer.setdefault(self._layer(name), []).append(name)
        for layer, names in by_layer.items():
            ratios: dict[str, torch.Tensor] = {}
            factors: dict[str, Factors] = {}
            for name in names:
                if name in held and self._fits(name):
                    self._compare(name, ratios, factors)
                advance(_count(self._source.checkpoint.tensors[name].shape))
            if ratios or factors:
                self._complete(layer, factors)
                self._findings += check_cancels(self._source.architecture, layer, ratios, factors, self._heads)
        self._findings += self._made_of_others() if not self._smoothed else ()
        self._findings += self._places.findings()
        named = {finding.where for finding in self._findings}
        linears = {linear.name: linear for linear in self._linears.values()}
        self._findings += [odd for odd in self._scales.findings(linears) if odd.where not in named]
        return WeightReport(tuple(self._errors), tuple(self._findings))

    def _complete(self, layer: int | None, factors: dict[str, Factors]) -> None:
        """Add what pairs with Linears that are known to be rescaled: the one before, whose rows, or the one behind,
        whose columns make up for it, may be scaled by so little that its own error does not tell."""
        linears = {linear.name: linear for linear in self._linears.values() if linear.layer == layer}
        pairs = [(other, found) for other in linears.values() if (found := producer_of(other, linears)) is not None]
        for reader, producer in pairs:
            for missing, other in ((reader, producer), (producer, reader)):
                held = missing.weight in self._weights.names() and self._fits(missing.weight)
                if other.name in factors and missing.name not in factors and held:
                    if self._weights.encoding(missing.weight) in _SMOOTHED:
                        with suppress(*UNREADABLE):  # which has its own finding
                            factors[missing.name] = self._fitted(missing)

    def _layer(self, name: str) -> int | None:
        linear, norm = self._linears.get(name), self._norms.get(name)
        return linear.layer if linear is not None else norm.layer if norm is not None else None

    def _fits(self, name: str) -> bool:
        return tuple(self._weights.shape(name)) == self._source.checkpoint.tensors[name].shape

    def _compare(self, name: str, ratios: dict[str, torch.Tensor], factors: dict[str, Factors]) -> None:
        try:
            if self._weights.encoding(name):
                self._compare_quantized(name, factors)
            else:
                self._compare_plain(name, ratios, factors)
        except UNREADABLE as error:
            self._findings.append(unreadable(name, error))

    def _compare_quantized(self, name: str, factors: dict[str, Factors]) -> None:
        encoding = self._weights.encoding(name)
        weight, original = self._weights.read(name), self._original(name)
        bad = list(numbers_of(name, encoding, weight))
        if bad and (original.any() or bad[0].check != ZERO):
            self._findings += bad
            return
        limit = loosened(LIMITS.get(encoding, _UNKNOWN), self._kind(name))
        error, rescaled = measure(weight, original, limit), self._has_recorded(name)
        linear = self._linears.get(name)
        movable = encoding in _SMOOTHED and self._smooths
        if linear is not None and movable and (self._smoothed or error.exceeds(limit)):
            found, without = self._factors(linear, weight, original)
            again = measure(without, original, limit)
            fits = again.relative <= 1.5 * limit.relative or again.relative < 0.5 * error.relative
            wrong_scale = uniform(found) and error.exceeds(limit) and not self._made_up_for(linear, found)
            if fits and not wrong_scale:
                factors[linear.name] = found
                rescaled = significant(found)
                error = again if rescaled else error
        self._errors.append(TensorError(name, encoding, error.relative, error.block, rescaled))
        unsound = error.exceeds(replace(limit, block=2 * limit.block) if rescaled else limit)
        how, layout = self._weights.rounding(name), self._weights.layout(name)
        if unsound and how.importance is not None and layout is not None:
            left = unexplained(weight, original, limit, layout, how.importance)
            unsound, error = left is not None, left or error
        lost = lost_group(weight, original, limit) if how.kind == "weighted" and not unsound else None
        if unsound:
            self._findings.append(self._finding(name, encoding, error, limit, weight))
        elif lost is not None:
            what = f"the group at row {lost[0]}, column {lost[1]} is all zeros, and its weights are not small"
            consequence = "these weights are gone: a scale is damaged"
            self._findings.append(Finding("weights.error", name, what, consequence, EXPORT_AGAIN))
        else:
            moved = linear if encoding in _SMOOTHED and self._smoothed else None
            if self._compensated is None or encoding in _NOTHING_TO_COMPENSATE:
                self._findings += self._check_codes(name, weight, original, moved)
            elif linear is not None and not rescaled:
                self._findings += self._check_compensated(self._compensated, linear, weight, original)

    def _kind(self, name: str) -> Kind:
        """How a weight was rounded, for the limit of its plain error: where the importance is at hand, what exceeds the
        limit of rounding to nearest is judged by it."""
        how = self._weights.rounding(name)
        return "nearest" if how.importance is not None else how.kind

    def _check_codes(
        self, name: str, weight: torch.Tensor, original: torch.Tensor, smoothed: Linear | None
    ) -> Iterator[Finding]:
        """smoothed: the Linear, where factors were moved between norms and Linears."""
        for codes, original_part in self._weights.code_parts(name, original):
            yield from self._check_part(name, codes, weight, original_part, smoothed)

    def _check_part(
        self, name: str, codes: Codes, weight: torch.Tensor, original: torch.Tensor, smoothed: Linear | None
    ) -> Iterator[Finding]:
        uncertain = None
        if smoothed is not None:
            inner = ~at_an_end(codes)  # what was clipped is no measure of a factor
            found = fit(weight * inner, original * inner, with_rows=is_producer(smoothed))
            uncertain = uncertainty(with_errors(found, weight * inner, original * inner, codes.scale))
            original = applied(found, original)
        else:
            self._scales.add(name, codes, original)
        lies = placement(codes, original, uncertain)
        worst = lies.misplaced
        if worst is None and smoothed is None:
            self._placements.setdefault(self._weights.encoding(name), []).append((name, lies))
        if worst is not None:
            others = f", and so do {worst.count - 1} more" if worst.count > 1 else ""
            what = (
                f"the code at row {worst.row}, column {worst.column} decodes to {worst.held:.4g}, {worst.steps:.1f}"
                f" steps from the source's {worst.source:.4g}{others}; all others are the nearest there are"
            )
            consequence = "a few weights are wrong: bits changed after they were rounded, here or in the source"
            yield Finding("weights.code", name, what, consequence, EXPORT_AGAIN)

    def _made_of_others(self) -> Iterator[Finding]:
        """Where all codes of nearly all weights are the nearest, one with many that are not was made of other
        weights: those of another checkpoint, or of one step of training later."""
        for found in self._placements.values():
            odd = [(name, lies) for name, lies in found if lies.count + lies.nearly]
            if len(found) < _COMPARED or len(odd) > _ODD * len(found):
                continue
            for name, lies in odd:
                what = (
                    f"{lies.count + lies.nearly} of {lies.size} codes are not the nearest to the source's weights, and"
                    " all codes of nearly all other weights are"
                )
                yield Finding("weights.code", name, what, "it was made of other weights", EXPORT_AGAIN)

    def _check_compensated(
        self, targets: Targets, linear: Linear, weight: torch.Tensor, original: torch.Tensor
    ) -> Iterator[Finding]:
        codes = self._weights.codes(linear.weight)
        worst = targets.misplaced(linear.name, codes, weight, original) if codes is not None else None
        if worst is not None:
            what = (
                f"the code at row {worst.row}, column {worst.column} stands for {worst.held:.4g}, {worst.steps:.1f}"
                f" steps from the {worst.source:.4g} that would make its row's outputs err least; nearly all others lie"
                " within half a step"
            )
            consequence = "a few weights are wrong: bits changed after they were rounded, here or in the source"
            yield Finding("weights.code", linear.weight, what, consequence, EXPORT_AGAIN)

    def _made_up_for(self, linear: Linear, found: Factors) -> bool:
        """Whether one factor for all of a Linear is what its norm, and the Linear before or behind it, make up for."""
        if not self._smoothed:
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

    def _fitted(self, linear: Linear) -> Factors:
        name = linear.weight
        return self._factors(linear, self._weights.read(name), self._original(name))[0]

    def _factors(self, linear: Linear, weight: torch.Tensor, original: torch.Tensor) -> tuple[Factors, torch.Tensor]:
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
        found = replace(found, tolerance=tolerance if self._compensated is None else COARSE)
        return found, undone(found, weight)

    @cached_property
    def _heads(self) -> Heads:
        config = self._source.checkpoint.config
        text = config.get("text_config")
        config = {**config, **text} if isinstance(text, Mapping) else config
        if config.get("kv_lora_rank"):
            return Heads(int(config.get("v_head_dim") or 0), int(config.get("qk_nope_head_dim") or 0))
        width, heads = config.get("hidden_size") or 0, config.get("num_attention_heads") or 1
        return Heads(int(config.get("head_dim") or width // heads))

    def _divided_by(self, linear: Linear) -> torch.Tensor:
        """float32 [in]: what the norm before a Linear was divided by; one where it reads no norm."""
        norm = self._norms.get(linear.norm or "")
        if norm is None or norm.weight not in self._weights.names():
            return torch.ones(linear.in_features)
        return norm_ratio(norm, self._weights.read(norm.weight), self._original(norm.weight))

    def _compare_plain(self, name: str, ratios: dict[str, torch.Tensor], factors: dict[str, Factors]) -> None:
        """In pieces; only what differs is looked at whole."""
        shape = self._source.checkpoint.tensors[name].shape
        rows = shape[0] if shape else 1
        step = max(1, _ROWS_BYTES * rows // max(1, 4 * _count(shape)))
        worst, equal = EXACT_ERROR, True
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            original = self._original(name, start, stop)
            weight = self._weights.read(name, start, stop).reshape(original.shape)
            if torch.equal(weight, original):
                continue
            bad = list(numbers_of(name, "", weight))
            if bad:
                self._findings += bad
                return
            if bool(((weight - original).abs() <= self._weights.slack(name)).all()):
                continue
            equal = equal and self._is_rounding(name, weight, original)
            found = measure(weight, original, EXACT)
            worst = found if found.relative >= worst.relative else worst
        left = None if equal else self._after_rescaling(name, ratios, factors)
        self._errors.append(
            TensorError(
                name,
                "",
                worst.relative if left is None else left,
                worst.block,
                left is not None or self._has_recorded(name),
            )
        )
        if not equal and left is None:
            self._findings.append(self._shifted(name) or self._finding(name, "", worst, EXACT, None))

    def _shifted(self, name: str) -> Finding | None:
        """One number added to all of a correction bias chooses the same experts: tools take its mean out."""
        if name not in self._source.architecture.correction_biases:
            return None
        shift = self._weights.read(name) - self._original(name)
        spread = float((shift - shift.mean()).abs().max())
        if spread > _SHIFT * float(self._original(name).abs().max()):
            return None
        what = f"all of it is larger by {float(shift.mean()):.4g} than in the source: the same experts are chosen"
        return Finding("weights.shifted", name, what, "none", "nothing, if meant", "warning")

    def _original(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """float32: what the source has in the place of an artifact's tensor, rows [start, stop), with scales that are
        recorded moved."""
        there = self._places.name(name)
        shape = self._source.checkpoint.tensors[there].shape
        stop = (shape[0] if shape else 1) if stop is None else stop
        rows = self._places.rows(name)
        if rows is not None:
            return self._source.checkpoint.read(TensorSlice(there, 0, shape[0])).float()[rows[start:stop]]
        original = self._source.checkpoint.read(TensorSlice(there, start, stop)).float()
        moved = None if self._recorded is None else self._recorded.moved(there, original, start)
        if moved is None:
            return original
        return moved if self._weights.encoding(name) else rounded_to_dtype(moved, self._weights.dtype(name))

    def _has_recorded(self, name: str) -> bool:
        return self._recorded is not None and self._recorded.touches(name)

    def _is_rounding(self, name: str, weight: torch.Tensor, original: torch.Tensor) -> bool:
        """Whether the values differ by no more than a narrower type makes them."""
        if self._weights.dtype(name) in ("F32", self._source.checkpoint.tensors[name].dtype):
            return False
        return bool(((weight - original).abs() <= _ROUNDED * original.abs() + _SUBNORMAL).all())

    def _after_rescaling(self, name: str, ratios: dict[str, torch.Tensor], factors: dict[str, Factors]) -> float | None:
        """What is left of the error of a plain tensor that differs by scales alone; the layer's own check then proves
        that they cancel. None where that is not what happened to it."""
        norm, linear = self._norms.get(name), self._linears.get(name)
        if not self._smoothed:
            return None
        weight, original = self._weights.read(name), self._original(name)
        if name.endswith(".bias"):
            return self._bias_after_rescaling(name.removesuffix("bias") + "weight", weight, original)
        if norm is not None:
            if float((weight != original).float().mean()) < _SMOOTHED_CHANNELS:
                return None
            ratios[name] = norm_ratio(norm, weight, original)
            return 0.0
        if linear is None:
            return None
        found = fit(weight, original, with_rows=is_producer(linear))
        left = measure(undone(found, weight), original, EXACT).relative
        if left > 2 * _ROUNDED:
            return None
        factors[linear.name] = replace(found, exact=True, tolerance=EXACT_FACTORS)
        return left

    def _bias_after_rescaling(self, owner: str, bias: torch.Tensor, original: torch.Tensor) -> float | None:
        """The same of the bias of a norm, which is divided as its weight is, or of a Linear whose rows are scaled.
        owner: the weight's name."""
        norm, linear = self._norms.get(owner), self._linears.get(owner)
        if norm is not None and owner in self._weights.names():
            ratio = norm_ratio(norm, self._weights.read(owner), self._original(owner))
            left = measure(bias * ratio.nan_to_num(1.0), original, EXACT).relative
            return left if left <= 2 * _ROUNDED else None
        if linear is None or owner not in self._weights.names() or not is_producer(linear):
            return None
        rows = self._fitted(linear).rows
        ratio = torch.where(original != 0, bias / original, torch.nan)
        return 0.0 if rows is not None and agrees(ratio, rows) else None

    @cached_property
    def _smoothed(self) -> bool:
        """Whether norms, or Linears in 16 bits whose outputs reach quantized ones, changed in a format that smoothing
        goes with; in all others such a change is a mistake."""
        if not self._smooths:
            return False
        held = {name for name in self._weights.names() if name in self._source.checkpoint.tensors}
        quantized = {name for name in held if self._weights.encoding(name) in _SMOOTHED}
        linears = {linear.name: linear for linear in self._linears.values()}
        readers = [self._linears[name] for name in quantized if name in self._linears]
        producers = {found.weight for linear in readers if (found := producer_of(linear, linears)) is not None}
        movable = (self._norms.keys() | producers) & held - quantized if quantized else set()
        return any(
            self._fits(name) and not torch.equal(self._weights.read(name), self._original(name))
            for name in sorted(movable)
        )

    def _finding(
        self, name: str, encoding: str, error: WeightError, limit: Limit, weight: torch.Tensor | None
    ) -> Finding:
        other = self._instead(name, weight) if weight is not None and error.relative > 0.5 else None
        if other is not None:
            what = f"it holds the weights of {other}"
            consequence = "one matrix is in the place of another: readable but damaged text"
        elif not encoding:
            what = f"it differs from the source by {error.relative:.3g} of its size, and it is not quantized"
            consequence = "the model computes something else"
        elif error.relative > limit.relative and error.relative > 2 * limit.relative:
            what = f"it is off by {error.relative:.3g} of its size, where {encoding} allows {limit.relative:g}"
            consequence = "the model computes something else: readable but damaged text"
        else:
            what = (
                f"the block at row {error.row}, column {error.column} is off by {error.block:.3g} of its largest"
                f" weight, where {encoding} allows {limit.block:g} (and the tensor by {error.relative:.3g} of its size,"
                f" where it allows {limit.relative:g})"
            )
            consequence = "these weights are wrong: a scale is damaged, or the rounding is"
        return Finding("weights.error", name, what, consequence, EXPORT_AGAIN)

    def _instead(self, name: str, weight: torch.Tensor) -> str | None:
        """The tensor of the source that this one holds, looked for among those of its shape, its own layer first."""
        tensors = self._source.checkpoint.tensors
        self._searched += 1
        if self._searched > _LOOK_FOR or weight.dim() != 2:
            return None
        layer = self._layer(name)
        same = [n for n, t in tensors.items() if n != name and t.shape == tensors[name].shape]
        rows = min(16, weight.shape[0])
        part = weight[:rows]
        for other in sorted(same, key=lambda n: self._layer(n) != layer)[:4096]:
            original = self._source.checkpoint.read(TensorSlice(other, 0, rows)).float()
            if float((part - original).norm()) < 0.5 * float(original.norm()):
                return other
        return None


EXACT_ERROR = WeightError(0.0, 0.0, 0, 0, 0.0)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
