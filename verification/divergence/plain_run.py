"""What a format costs a model by itself: the source's weights and inputs rounded plainly, run over the held-out text.

It is the measure that an artifact's own divergence is held to (see docs/gates.md): as large as the artifact's would be
if nothing had been searched, calibrated or compensated, and nothing broken. Where the rounding of inputs is fixed by
calibration, it is taken from the inputs themselves here.
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from sixfold.artifact.workspace import digest_of, read_json, write_json
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.texts.held_out_text import Windows
from verification.divergence.activations import Rule
from verification.divergence.divergence import Reference, Score, scored
from verification.divergence.walk import Run, device
from verification.reading.held_source import HeldSource
from verification.reading.plain_rounding import Layout, can_be_stacked, rounded_plainly, rounded_to_dtype
from verification.reading.stack import in_stacks
from verification.reading.weights import CodedWeights

_VERSION = 1
"""Of the rounding and the rules, for results that are kept."""


class PlainWeights:
    """The source's weights as an artifact's layouts hold them, of which nothing else is read.

    Raises SixfoldError where it holds a weight in a format that plain rounding does not know.
    """

    def __init__(self, weights: CodedWeights, held: HeldSource) -> None:
        self._source = source = held.source
        self._tensors = held
        self._kept: dict[str, torch.Tensor] = {}
        self._held = {name: weights.encoding(name) for name in weights.names() if name in source.checkpoint.tensors}
        self._layouts = {name: weights.layout(name) for name, encoding in self._held.items() if encoding}
        self._dtypes = {name: weights.dtype(name) for name, encoding in self._held.items() if not encoding}
        unknown = sorted({self._held[name] for name, layout in self._layouts.items() if layout is None})
        if unknown:
            raise SixfoldError(
                f"what plain rounding to {' and '.join(unknown)} costs is not known here",
                "set `gates.max_mean_kl` in the recipe in place of `gates.max_kl_ratio`",
            )

    @property
    def key(self) -> Hashable:
        """The same for weights of the same source that are rounded alike."""
        return frozenset(self._layouts.items()), frozenset(self._dtypes.items())

    def names(self) -> Iterable[str]:
        return self._source.checkpoint.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.checkpoint.tensors[name].shape

    def encoding(self, name: str) -> str:
        return self._held.get(name, "")

    def dtype(self, name: str) -> str:
        return self._dtypes.get(name, self._source.checkpoint.tensors[name].dtype)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        whole = self.read_on(torch.device("cpu"), name)
        return whole[start:stop] if self.shape(name) else whole

    def read_on(self, device: torch.device, name: str) -> torch.Tensor:
        kept = self._kept.pop(name, None)
        if kept is not None:
            return kept
        layout = self._layouts.get(name)
        if layout is None:
            return rounded_to_dtype(self._tensors.read(name).to(device).float(), self.dtype(name))
        return self._tensors.made_last(
            (name, layout), lambda original: rounded_plainly(original.to(device).float(), layout)
        )

    def prepare(self, layer: int | None, wanted: Collection[str]) -> None:
        """Those of one shape and layout are rounded together."""
        self._kept.clear()
        self._tensors.hold(layer)
        layouts = {name: found for name in sorted(wanted) if (found := self._layouts.get(name)) is not None}
        tensors = [
            (name, (layout, shape), prod(shape))
            for name, layout in layouts.items()
            if len(shape := self.shape(name)) == 2 and can_be_stacked(layout, shape[0])
        ]
        for _, names in in_stacks(tensors, self._tensors.device):
            if len(names) > 1:  # one alone is rounded as it is read
                self._round(layouts[names[0]], names)

    def _round(self, layout: Layout, names: Sequence[str]) -> None:
        original = torch.cat([self._tensors.read(name) for name in names]).float()
        whole = rounded_plainly(original, layout, matrices=len(names))
        self._kept |= zip(names, whole.chunk(len(names)), strict=True)

    def is_source(self, layer: int | None) -> bool:
        tensors, names = self._source.checkpoint.tensors, self._tensors.layers.get(layer, [])
        return all(name not in self._layouts and self.dtype(name) == tensors[name].dtype for name in names)

    @property
    def are_the_sources(self) -> bool:
        """Whether nothing is rounded at all."""
        return all(map(self.is_source, self._tensors.layers))

    def digest(self, source: Source, windows: Windows, rules: Mapping[str, Any]) -> str:
        """Of all that decides what a run of them gives."""
        layouts = {name: asdict(layout) for name, layout in self._layouts.items() if layout is not None}
        return digest_of(
            {
                "version": _VERSION,
                "source": source.checkpoint.fingerprint,
                "windows": windows.digest,
                "layouts": layouts,
                "dtypes": self._dtypes,
                "inputs": sorted(rules),
            }
        )


@dataclass(frozen=True)
class PlainRun:
    """kept: file of its score, which variants of the same layouts share."""

    weights: PlainWeights
    rules: Mapping[str, Rule]
    kept: Path

    @property
    def run(self) -> Run:
        return Run(None if self.weights.are_the_sources else self.weights, self.rules)

    @property
    def known(self) -> Score | None:
        """What an earlier variant of the same layouts left."""
        found = read_json(self.kept)
        return None if found is None else Score(**{**found, "layers": tuple(found["layers"])})

    def keep(self, score: Score) -> Score:
        with suppress(OSError):  # a folder that cannot be written only costs the next variant a run
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.kept, asdict(score))
        return score


def plain_run(
    held: HeldSource, weights: CodedWeights, rules: Mapping[str, Rule], windows: Windows, cache: Path
) -> PlainRun:
    """rules: how plain inputs are rounded. cache: folder of what is kept. Raises SixfoldError as PlainWeights does."""
    plain = PlainWeights(weights, held)
    return PlainRun(plain, rules, cache / f"plain-{plain.digest(held.source, windows, rules)[:16]}.json")


def plain_score(
    source: Source,
    weights: CodedWeights,
    rules: Mapping[str, Rule],
    windows: Windows,
    reference: Reference,
    cache: Path,
    progress: Progress,
) -> Score:
    """Of one `plain_run`, from the cache's folder where it is known there."""
    plain = plain_run(HeldSource(source, device()), weights, rules, windows, cache)
    known = plain.known
    if known is not None:
        return known
    return plain.keep(scored(source, plain.weights, rules, windows, reference, progress).score)
