"""Every tensor of an artifact, dequantized, against its source, a layer at a time.

What divergence sees in the outputs of the entire model, this finds by name: experts exchanged or permuted, gate and up
swapped, a scale of another matrix, one flipped bit. Matrices of one shape and format are compared together, on the
device; only what does not pass there is looked at by itself, on the CPU.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from math import prod
from typing import Any

import torch

from verification.finding import Finding
from verification.reading.held_source import HeldSource
from verification.reading.stack import in_stacks
from verification.reading.stated_rounding import Kind
from verification.reading.weights import CodedWeights, read_on
from verification.weights.blame import Blame
from verification.weights.code_findings import CodeFindings
from verification.weights.compensated_codes import Targets
from verification.weights.format_error import EXACT, measure, measured
from verification.weights.moved_scales import SMOOTHED, MovedScales
from verification.weights.originals import Originals
from verification.weights.pieces import LARGE, in_pieces
from verification.weights.plain_tensors import compared_plainly, shifted_bias
from verification.weights.recorded_scales import RecordedScales
from verification.weights.smoothing import Factors, check_cancels, significant, uniform
from verification.weights.stored_error import error_of, limit_of, parts_of
from verification.weights.weight_numbers import UNREADABLE, ZERO, are_numbers, numbers_of, unreadable
from verification.weights.weighted_error import lose_groups

Keep = Callable[[str, torch.Tensor], None]
"""Gets the name of a tensor and what was read of it, float32."""


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


class Comparison:
    """layers: names of the source's tensors by decoder layer, None for those outside of them. Each layer is compared
    once, in any order."""

    def __init__(
        self, weights: CodedWeights, held: HeldSource, compensated: Targets | None, smooths: bool | RecordedScales
    ) -> None:
        """compensated: of an artifact whose maker says that errors were compensated, so that neither codes nor scales
        need be those of the weights. smooths: whether its maker may have moved scales between norms and Linears, or
        which ones it recorded."""
        self._weights = weights
        self._source = held.source
        self._device = held.device
        self._tensors = held.source.checkpoint.tensors
        self._held = set(weights.names())
        self._not_run = set(held.source.architecture.not_run)
        self._linears = {linear.weight: linear for linear in self._source.architecture.linears}
        self._norms = {norm.weight: norm for norm in self._source.architecture.norms}
        recorded = smooths if isinstance(smooths, RecordedScales) else None
        self._originals = Originals(weights, held, recorded)
        self._codes = CodeFindings(weights, compensated)
        self._moved = MovedScales(
            weights, self._source, self._originals, may=smooths is True, compensated=compensated is not None
        )
        self._blame = Blame(self._source, self._layer)
        self._errors: dict[str, TensorError] = {}
        self._findings: list[Finding] = []
        self.layers = held.layers
        self._left = set(self.layers)

    @property
    def failed(self) -> bool:
        """Whether what was compared so far has shown an error."""
        return any(finding.severity == "error" for finding in self._findings)

    def compare(self, layer: int | None, keep: Keep | None = None) -> None:
        """keep: gets each tensor of the layer that could be read. Nothing where it was compared before."""
        if layer not in self._left:
            return
        self._left.remove(layer)
        ratios, factors = self.compare_tensors(self.layers[layer], keep)
        if ratios or factors:
            self._moved.complete(layer, factors)
            heads = self._moved.heads
            self._findings += check_cancels(self._source.architecture, layer, ratios, factors, heads)

    def compare_tensors(
        self, wanted: Sequence[str], keep: Keep | None
    ) -> tuple[dict[str, torch.Tensor], dict[str, Factors]]:
        """Some of a layer's, and the scales that seem to have been moved in them: of norms, and of Linears."""
        ratios: dict[str, torch.Tensor] = {}
        factors: dict[str, Factors] = {}
        for names in self._stacks(wanted):
            plain = not self._weights.encoding(names[0])
            if len(names) == 1 and (plain or not self._can_be_stacked(names[0])):
                self._compare(names[0], ratios, factors, keep)
            else:
                for name in (self._compare_plain_stack if plain else self._compare_stack)(names, keep):
                    self._compare(name, ratios, factors, None)
        return ratios, factors

    def is_exact(self, layer: int | None) -> bool:
        """Whether every tensor of a layer was compared, those that are not run aside, and is the source's."""
        names = set(self.layers.get(layer, ())) - self._not_run
        return all(
            name in self._errors
            and not self._errors[name].encoding
            and not self._errors[name].relative
            and not self._errors[name].rescaled
            and not self._weights.slack(name)
            for name in names
        )

    @property
    def left(self) -> int:
        """Weights that were not compared yet."""
        return sum(self._size(layer) for layer in self._left)

    def is_left(self, layer: int | None) -> bool:
        return layer in self._left

    def report(self, advance: Callable[[int], None]) -> WeightReport:
        """Compares what has not been compared yet. advance: gets the number of weights after each layer of it."""
        for layer in [layer for layer in self.layers if layer in self._left]:
            self.compare(layer)
            advance(self._size(layer))
        linears = {linear.name: linear for linear in self._linears.values()}
        place = {name: number for number, name in enumerate(self._tensors)}
        found = sorted(self._findings, key=lambda finding: place.get(finding.where, len(place)))
        of_all = list(self._codes.of_all(linears, smoothed=self._moved.were))
        found += [finding for finding in of_all if finding.check != "weights.scale"]
        found += self._originals.places.findings()
        named = {finding.where for finding in found}
        found += [odd for odd in of_all if odd.check == "weights.scale" and odd.where not in named]
        errors = (self._errors[name] for name in self._tensors if name in self._errors)
        return WeightReport(tuple(errors), tuple(found))

    def _size(self, layer: int | None) -> int:
        return sum(prod(self._tensors[name].shape) for name in self.layers[layer])

    def _layer(self, name: str) -> int | None:
        linear, norm = self._linears.get(name), self._norms.get(name)
        return linear.layer if linear is not None else norm.layer if norm is not None else None

    def _stacks(self, wanted: Sequence[str]) -> Iterator[list[str]]:
        """Those that can be compared, together that are compared together."""
        held = (name for name in wanted if name in self._held)
        alike = [name for name in held if tuple(self._weights.shape(name)) == self._tensors[name].shape]
        tensors = [(name, self._stack_of(name), prod(self._tensors[name].shape)) for name in alike]
        return (names for _, names in in_stacks(tensors, self._device))

    def _stack_of(self, name: str) -> Hashable:
        return (self._weights.stack_of(name), self._kind(name)) if self._can_be_stacked(name) else name

    def _can_be_stacked(self, name: str) -> bool:
        encoding = self._weights.encoding(name)
        if (not encoding and self._device.type == "cpu") or (encoding in SMOOTHED and self._moved.were):
            return False
        return self._weights.stack_of(name) is not None

    def _compare_stack(self, names: Sequence[str], keep: Keep | None) -> Iterator[str]:
        """Those that do not pass as they are, to be looked at by themselves."""
        size = prod(self._tensors[names[0]].shape)
        if len(names) == 1 and self._device.type != "cuda" and size > LARGE:
            with suppress(*UNREADABLE):
                if self._passes_in_pieces(names[0], keep):
                    return
            yield names[0]
            return
        count, encoding = len(names), self._weights.encoding(names[0])
        try:
            stack, original = self._weights.stack(names, self._device), self._originals.stack(names)
        except UNREADABLE:
            yield from names
            return
        for name, values in zip(names, stack.values.unflatten(0, (count, -1)), strict=True):
            if keep is not None:
                keep(name, values)
        kind = self._kind(names[0])
        limit = limit_of(encoding, kind)
        sound = are_numbers(stack.values, count)
        errors = measured(stack.values, original, limit, count)
        sound = [fine and not error.exceeds(limit) for fine, error in zip(sound, errors, strict=True)]
        if self._weights.rounding(names[0]).kind == "weighted":
            lost = lose_groups(stack.values, original, limit, count)
            sound = [fine and not gone for fine, gone in zip(sound, lost, strict=True)]
        nearest = self._codes.is_nearest(encoding, self._linears.get(names[0]))
        if stack.codes is not None and nearest:
            sound = self._codes.of_stack(names, stack.codes, original, sound)
        rows = original.shape[0] // count
        compensated: list[int] = []
        for number, (name, error) in enumerate(zip(names, errors, strict=True)):
            if not sound[number]:
                yield name
                continue
            rescaled = self._originals.has_recorded(name)
            self._errors[name] = TensorError(name, encoding, error.relative, error.block, rescaled)
            if name in self._linears and not rescaled:
                compensated.append(number)
        if stack.codes is not None and not nearest:
            for run in _neighbors(compensated):
                own = slice(run[0] * rows, (run[-1] + 1) * rows)
                codes, linears = stack.codes.rows(own.start, own.stop), [self._linears[names[n]] for n in run]
                self._findings += self._codes.of_compensated(linears, codes, stack.values[own], original[own])

    def _compare_plain_stack(self, names: Sequence[str], keep: Keep | None) -> Iterator[str]:
        """Those that are not the source's, to be looked at by themselves."""
        try:
            values, original = self._weights.stack(names, self._device).values, self._originals.stack(names)
        except UNREADABLE:
            yield from names
            return
        equal = (values == original).view(len(names), -1).all(1).tolist()
        for name, of_name, is_equal in zip(names, values.chunk(len(names)), equal, strict=True):
            if keep is not None:
                keep(name, of_name)
            if is_equal:
                self._errors[name] = TensorError(name, "", 0.0, 0.0, self._originals.has_recorded(name))
            else:
                yield name

    def _passes_in_pieces(self, name: str, keep: Keep | None) -> bool:
        """The same of one that is too large to be looked at whole."""
        limit = limit_of(self._weights.encoding(name), self._kind(name))
        rescaled = self._originals.has_recorded(name)
        linear = None if rescaled else self._linears.get(name)
        found = in_pieces(self._weights, self._originals, self._codes, name, limit, linear, whole=keep is not None)
        if found.values is not None and keep is not None:
            keep(name, found.values)
        if not found.sound:
            return False
        self._findings += found.findings
        self._errors[name] = TensorError(
            name, self._weights.encoding(name), found.error.relative, found.error.block, rescaled
        )
        return True

    def _compare(
        self, name: str, ratios: dict[str, torch.Tensor], factors: dict[str, Factors], keep: Keep | None
    ) -> None:
        try:
            if self._weights.encoding(name):
                self._compare_quantized(name, factors, keep)
            else:
                self._compare_plain(name, ratios, factors, keep)
        except UNREADABLE as error:
            self._findings.append(unreadable(name, error))

    def _compare_quantized(self, name: str, factors: dict[str, Factors], keep: Keep | None) -> None:
        encoding = self._weights.encoding(name)
        weight, original = self._weights.read(name), self._originals.on_cpu(name)
        if keep is not None:
            keep(name, weight)
        strange = list(numbers_of(name, encoding, weight))
        if strange and (original.any() or strange[0].check != ZERO):
            self._findings += strange
            return
        measured, rescaled = weight, self._originals.has_recorded(name)
        linear = self._linears.get(name)
        if linear is not None and encoding in SMOOTHED and self._moved.may:
            limit = limit_of(encoding, self._kind(name))
            error = measure(weight, original, limit)
            if self._moved.were or error.exceeds(limit):
                found, without = self._moved.factors(linear, weight, original)
                again = measure(without, original, limit)
                fits = again.relative <= 1.5 * limit.relative or again.relative < 0.5 * error.relative
                wrong_scale = uniform(found) and error.exceeds(limit) and not self._moved.made_up_for(linear, found)
                if fits and not wrong_scale:
                    factors[linear.name] = found
                    rescaled = significant(found)
                    measured = without if rescaled else weight
        parts = parts_of(self._weights, name, measured, original, self._kind(name))
        whole = error_of(parts)
        self._errors[name] = TensorError(name, encoding, whole.relative, whole.block, rescaled)
        unsound = next(((part, bad) for part in parts if (bad := part.unsound(rescaled=rescaled))), None)
        weighted = self._weights.rounding(name).kind == "weighted" and unsound is None
        gone = next(((part, at) for part in parts if (at := part.lost)), None) if weighted else None
        if unsound is not None:
            part, error = unsound
            self._findings.append(self._blame.finding(name, part.encoding, error, part.limit, weight, part.held_in))
        elif gone is not None:
            part, at = gone
            self._findings.append(self._blame.lost(name, at, part.held_in))
        elif self._codes.is_nearest(encoding, linear):
            moved = linear if encoding in SMOOTHED and self._moved.were else None
            self._findings += self._codes.of(name, weight, original, moved)
        elif linear is not None and not rescaled:
            self._findings += self._codes.of_compensated([linear], self._weights.codes(name), weight, original)

    def _kind(self, name: str) -> Kind:
        """How a weight was rounded, for the limit of its plain error: where the importance is at hand, what exceeds the
        limit of rounding to nearest is judged by it."""
        how = self._weights.rounding(name)
        return "nearest" if how.importance is not None else how.kind

    def _compare_plain(
        self, name: str, ratios: dict[str, torch.Tensor], factors: dict[str, Factors], keep: Keep | None
    ) -> None:
        """Only what differs is looked at whole."""
        whole = None if keep is None else read_on(self._weights, self._device, name).to(self._device)
        if whole is not None and keep is not None:
            keep(name, whole)
        found = compared_plainly(self._weights, self._originals, self._tensors[name], self._device, whole)
        if found.bad:
            self._findings += found.bad
            return
        worst, equal = found.worst, found.equal
        left = None if equal else self._moved.left_of(name, ratios, factors)
        relative, rescaled = worst.relative if left is None else left, left is not None
        rescaled = rescaled or self._originals.has_recorded(name)
        self._errors[name] = TensorError(name, "", relative, worst.block, rescaled)
        if not equal and left is None:
            self._findings.append(
                shifted_bias(self._weights, self._originals, self._source.architecture, name)
                or self._blame.finding(name, "", worst, EXACT, None)
            )


def _neighbors(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Ascending numbers in runs without a gap."""
    for _, run in groupby(enumerate(numbers), key=lambda entry: entry[1] - entry[0]):
        yield [number for _, number in run]
