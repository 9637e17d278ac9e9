"""The best scale of every smoothing group of a layer: a grid of candidates, tried on all that reads the group's output.

On the processor threads take one input of a group each, and sums over them are taken in source order. On a GPU experts
of the same shapes are searched side by side.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from exporters.numerics.awq_candidates import PLAIN, GridPoint, candidate_scales, losses, output_energy, weight_sum
from exporters.rounding.device import moved, turn
from exporters.smoothing.smoothing_groups import SmoothingGroup
from sixfold.artifact.safetensors_layout import whole
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.model.architecture import Linear
from sixfold.statistics.statistics import InputStatistics, Statistics


@dataclass(frozen=True)
class Search:
    """quantized: names of the Linears whose error counts. stored: dtype that unquantized tensors are written in.
    averages: replacement statistics of Linears that too few tokens reached, by name. device: that is searched on."""

    checkpoint: Checkpoint
    statistics: Statistics
    quantized: frozenset[str]
    stored: Mapping[str, torch.dtype]
    points: Sequence[GridPoint]
    group_size: int
    clip: bool
    averages: Mapping[str, InputStatistics]
    device: torch.device

    def weight(self, name: str) -> torch.Tensor:
        return self.checkpoint.read(whole(self.checkpoint.tensors[name + ".weight"]))

    def seen(self, linear: Linear) -> InputStatistics:
        average = self.averages.get(linear.name)
        return self._seen(*self.statistics.place_of(linear.name), linear.name) if average is None else average

    @cached_property
    def _seen(self) -> Callable[[str, int | None, str], InputStatistics]:
        """Read once for all that ask: of a layer it is small beside the weights."""
        known: dict[tuple[str, int | None], InputStatistics] = {}

        def seen(site: str, expert: int | None, name: str) -> InputStatistics:
            if (site, expert) not in known:
                known[site, expert] = self.statistics.of_linear(name)
            return known[site, expert]

        return seen


@dataclass(frozen=True)
class Found:
    """scale: float32 [channels]. loss: float64 [2], rounded plainly and with the best scale of the grid."""

    scale: torch.Tensor
    loss: torch.Tensor


_Linears: TypeAlias = tuple[Linear, ...]


@dataclass(frozen=True)
class Part:
    """Quantized Linears that read one input of group number `group`."""

    group: int
    linears: _Linears


Parts: TypeAlias = tuple[Part, ...]
_Each: TypeAlias = Callable[[Callable[[Parts], torch.Tensor], Iterable[Parts]], Iterable[torch.Tensor]]


def find_scales(search: Search, groups: Sequence[SmoothingGroup], each: _Each) -> list[Found | None]:
    """The best scale of the grid for every group; None where calibration saw nothing of its input.

    each: `map`, or one that works on several threads.
    """
    parts: list[Part] = []
    x_means: dict[int, torch.Tensor] = {}
    for number, group in enumerate(groups):
        readers = [r for r in group.readers if r.name in search.quantized and search.statistics.has(r.name)]
        inputs = _by_input(readers)
        inputs = [same for same in inputs if same[0].name not in search.averages] or inputs
        x_mean = _mean_input([linears[0] for linears in inputs], search)
        if x_mean is not None:
            x_means[number] = x_mean
            parts += [Part(number, linears) for linears in inputs]
    cut = batches(search, parts)

    def summed(measure: Callable[[Parts], torch.Tensor]) -> dict[int, torch.Tensor]:
        """Of every group, over its parts in their order."""
        made = [one for batch in each(_in_turn(search, measure), cut) for one in batch]
        by_part = dict(zip((part for batch in cut for part in batch), made, strict=True))
        return {n: torch.stack([by_part[part] for part in parts if part.group == n]).sum(0) for n in x_means}

    scales: dict[int, torch.Tensor] = {}
    for number, w_sum in summed(lambda batch: weight_sum(_weights(search, batch), search.group_size)).items():
        rows = sum(linear.out_features for part in parts if part.group == number for linear in part.linears)
        scales[number] = candidate_scales(search.points, x_means[number], (w_sum / rows).float())
    total = summed(lambda batch: _losses(search, batch, scales, clip=False))
    ends = {n: [search.points.index(PLAIN), int(losses.argmin())] for n, losses in total.items()}
    scales = {n: scales[n][ends[n]] for n in scales}
    total = {n: total[n][ends[n]] for n in total}
    if search.clip:
        # Clipped ranges cost several times as much to find, and take a part of the gain: is the best still better?
        total = summed(lambda batch: _losses(search, batch, scales, clip=True))
    best = {n: int(losses.argmin()) for n, losses in total.items()}
    found = {n: Found(scales[n][best[n]], torch.stack([total[n][0], total[n][best[n]]])) for n in total}
    return [found.get(number) for number in range(len(groups))]


_AT_GPU = 1 << 27
"""Weights, or candidates' rows, that stand side by side on a GPU."""


def batches(search: Search, parts: Sequence[Part]) -> list[Parts]:
    """One by one on the processor, where threads stand side by side."""
    return [(part,) for part in parts] if search.device.type == "cpu" else side_by_side(search, parts)


def side_by_side(search: Search, parts: Sequence[Part]) -> list[Parts]:
    """Parts of the same shapes and numbers of sample rows."""
    alike: dict[tuple[object, ...], list[Part]] = {}
    for part in parts:
        shapes = tuple((linear.out_features, linear.in_features) for linear in part.linears)
        alike.setdefault((shapes, len(search.seen(part.linears[0]).sample)), []).append(part)
    found: list[Parts] = []
    for (_, sampled), same in alike.items():
        columns = same[0].linears[0].in_features
        weights = sum(linear.out_features for linear in same[0].linears) * columns
        rows = len(search.points) * int(sampled) * columns  # type: ignore[call-overload]
        number = max(1, _AT_GPU // max(weights, rows, 1))
        found += [tuple(same[start : start + number]) for start in range(0, len(same), number)]
    return found


def _in_turn(search: Search, measure: Callable[[Parts], torch.Tensor]) -> Callable[[Parts], torch.Tensor]:
    def measured(batch: Parts) -> torch.Tensor:
        with turn(search.device):
            return measure(batch).cpu()

    return measured


def _weights(search: Search, batch: Parts) -> torch.Tensor:
    """[parts, out, in], on the device; the Linears of a part below one another."""
    first = batch[0].linears
    columns, rows = first[0].in_features, [linear.out_features for linear in first]
    if len(batch) == len(first) == 1:
        return moved(search.weight(first[0].name), search.device)[None]
    held = None
    for place, part in enumerate(batch):
        start = 0
        for linear, height in zip(part.linears, rows, strict=True):
            weight = moved(search.weight(linear.name), search.device)
            if held is None:
                held = torch.empty((len(batch), sum(rows), columns), dtype=weight.dtype, device=search.device)
            held[place, start : start + height].copy_(weight)
            start += height
    assert held is not None  # a part has a Linear
    return held


def _losses(search: Search, batch: Parts, scales: Mapping[int, torch.Tensor], *, clip: bool) -> torch.Tensor:
    """Error per candidate of the Linears of each part, times the tokens that they saw: float64 [parts, candidates].

    Each Linear's error is relative to its own outputs: what reads them (a norm, an activation function, a product)
    makes their magnitudes incomparable, and the larger outputs would decide for all.
    """
    seen = [search.seen(part.linears[0]) for part in batch]
    candidates = torch.stack([scales[part.group] for part in batch]).to(search.device)
    if not len(seen[0].sample):
        return torch.zeros(candidates.shape[:2], dtype=torch.float64)
    weight = _weights(search, batch)
    rows = torch.stack([of.sample for of in seen]).to(search.device)
    importance = torch.stack([mean_square(of) for of in seen]).to(search.device) if clip else None
    found = losses(weight, rows, candidates, search.group_size, importance)
    sizes = [linear.out_features for linear in batch[0].linears]
    errors = torch.stack([part.sum(-1, dtype=torch.float64) for part in found.split(sizes, -1)])
    energy = output_energy(weight, rows).split(sizes, -1)
    outputs = torch.stack([part.sum(-1, dtype=torch.float64) for part in energy])
    counts = torch.tensor([of.count for of in seen], device=search.device)
    return (errors / outputs.clamp(min=1e-30)[..., None]).sum(0) * counts[:, None]


def mean_square(seen: InputStatistics) -> torch.Tensor:
    """float32 [in]: what the importance of a channel is taken from."""
    return seen.sum_sq / seen.count


def _by_input(linears: Iterable[Linear]) -> list[_Linears]:
    found: dict[tuple[str, int | None], list[Linear]] = {}
    for linear in linears:
        found.setdefault((linear.site, linear.expert), []).append(linear)
    return [tuple(same) for same in found.values()]


def _mean_input(linears: Iterable[Linear], search: Search) -> torch.Tensor | None:
    """Mean |x| per channel over the tokens of several inputs: float32 [in], None without a token."""
    total, count = None, 0
    for linear in linears:
        seen = search.seen(linear)
        total = seen.sum_abs.double() if total is None else total + seen.sum_abs.double()
        count += seen.count
    return None if total is None or count == 0 else (total / count).float()
