"""Codes that are not where rounding put them, tensor by tensor, and what only all tensors together tell."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from sixfold.model.architecture import Linear
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.stored_codes import Codes
from verification.reading.weights import CodedWeights
from verification.weights.code_check import Misplaced, Placement, at_an_end, out_of_place, placement
from verification.weights.compensated_codes import Targets
from verification.weights.recomputed_scales import Scales
from verification.weights.smoothing import applied, fit, is_producer, uncertainty, with_errors

_NOTHING_TO_SEARCH = ("Q8_0",)
"""Types in which weights without inputs, such as embeddings, are rounded to nearest in compensated files, too."""

_COMPARED = 8
_ODD = 0.1
"""Of the weights of an encoding, so many at least, that may be unlike the others to be named for it."""


class CodeFindings:
    """compensated: where errors were made up for, what codes should then be."""

    def __init__(self, weights: CodedWeights, compensated: Targets | None) -> None:
        self._weights = weights
        self._compensated = compensated
        self._scales = Scales()
        self._placements: dict[str, list[tuple[str, Placement]]] = {}

    def is_nearest(self, encoding: str, linear: Linear | None) -> bool:
        """Whether codes must be the nearest, as far as the artifact's maker says. linear: None of other weights."""
        return self._compensated is None or (linear is None and encoding in _NOTHING_TO_SEARCH)

    def of(self, name: str, weight: torch.Tensor, original: torch.Tensor, smoothed: Linear | None) -> Iterator[Finding]:
        """Of one weight that was rounded to nearest. weight, original: float32 [out, in], on the CPU. smoothed: the
        Linear, where factors were moved between norms and Linears."""
        for codes, part in self._weights.code_parts(name, original):
            yield from self._of_part(name, codes, weight, part, smoothed)

    def of_stack(self, names: Sequence[str], codes: Codes, original: torch.Tensor, sound: Sequence[bool]) -> list[bool]:
        """Of weights under one another that were rounded to nearest, those of the `sound` of which nothing is to be
        said. original: float32 [matrices * rows, columns]."""
        self._scales.add(names, codes, original, sound)
        size = original.numel() // len(names)
        passed = []
        for name, before, out in zip(names, sound, out_of_place(codes, original, len(names)), strict=True):
            lies = Placement(None, *out, size)
            passed.append(before and not (lies.count and lies.are_few))
            if passed[-1]:
                self.add(name, lies)
        return passed

    def add(self, name: str, lies: Placement) -> None:
        """Of a weight that was rounded to nearest and of which nothing is to be said by itself."""
        self._placements.setdefault(self._weights.encoding(name), []).append((name, lies))

    def of_compensated(
        self,
        linears: Sequence[Linear],
        codes: Codes | None,
        weight: torch.Tensor,
        original: torch.Tensor,
        first: int = 0,
    ) -> Iterator[Finding]:
        """Of Linears of one shape whose errors were made up for, under one another; of one alone from its row `first`
        on. weight, original: float32 [Linears * rows, in] on one device."""
        if self._compensated is None or codes is None:
            return
        names = [linear.name for linear in linears]
        weights = {linear.name: linear.weight for linear in linears}
        for name, worst in self._compensated.misplaced(names, codes, weight, original):
            what = (
                f"the code at row {first + worst.row}, column {worst.column} stands for {worst.held:.4g},"
                f" {worst.steps:.1f} steps from the {worst.source:.4g} that would make its row's outputs err least;"
                " nearly all others lie within half a step"
            )
            yield _changed(weights[name], what)

    def of_all(self, linears: Mapping[str, Linear], *, smoothed: bool) -> Iterator[Finding]:
        """What all tensors together tell of each: weights of another checkpoint, and scales that do not follow."""
        yield from () if smoothed else self._made_of_others()
        yield from self._scales.findings(linears)

    def _of_part(
        self, name: str, codes: Codes, weight: torch.Tensor, original: torch.Tensor, smoothed: Linear | None
    ) -> Iterator[Finding]:
        uncertain = None
        if smoothed is not None:
            inner = ~at_an_end(codes)  # what was clipped is no measure of a factor
            found = fit(weight * inner, original * inner, with_rows=is_producer(smoothed))
            uncertain = uncertainty(with_errors(found, weight * inner, original * inner, codes.scale))
            original = applied(found, original)
        else:
            self._scales.add([name], codes, original, [True])
        lies = placement(codes, original, uncertain)
        worst = lies.misplaced
        if worst is not None:
            yield _misplaced(name, worst)
        elif smoothed is None:
            self.add(name, lies)

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


def _misplaced(name: str, worst: Misplaced) -> Finding:
    others = f", and so do {worst.count - 1} more" if worst.count > 1 else ""
    what = (
        f"the code at row {worst.row}, column {worst.column} decodes to {worst.held:.4g}, {worst.steps:.1f} steps from"
        f" the source's {worst.source:.4g}{others}; all others are the nearest there are"
    )
    return _changed(name, what)


def _changed(name: str, what: str) -> Finding:
    consequence = "a few weights are wrong: bits changed after they were rounded, here or in the source"
    return Finding("weights.code", name, what, consequence, EXPORT_AGAIN)
