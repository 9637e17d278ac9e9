"""Search the scales of one decoder layer from calibration's statistics and sampled rows, a Linear at a time.

What is decided, by name ("*" stands for every expert of the layer):

    <module>.out       float32 [out], or [experts, out] for the experts' up projections: divides the module's outputs
    <module>.in        float32 [in], or [experts, in] for the experts' down projections: multiplies the input channels
    <module>.importance  float32 [in] or [experts, in]: mean square of the module's inputs, where ranges are clipped
    <source>.loss      float64 [2] or [experts, 2]: relative squared error of the readers' outputs times the tokens
                       they saw, rounded plainly and with the chosen scale
    <reader>.rounding  float64 []: relative change of an unquantized reader's outputs by rounding its rescaled weights

Sums over Linears are taken in source order and each Linear by one thread, so the number of threads changes nothing. On
a GPU experts of the same shapes are searched side by side.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch

from exporters.numerics.awq_candidates import PLAIN, GridPoint, candidate_scales, losses, output_energy, weight_sum
from exporters.protocol import Decided, Decisions
from exporters.rounding.device import turn
from exporters.smoothing.smoothing_groups import SmoothingGroup
from sixfold.artifact.safetensors_layout import whole
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.model.architecture import Linear
from sixfold.statistics.starved_experts import note, stand_in
from sixfold.statistics.statistics import InputStatistics, Statistics

_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


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
class _Part:
    """Quantized Linears that read one input of group number `group`."""

    group: int
    linears: _Linears


_Parts: TypeAlias = tuple[_Part, ...]
_Each: TypeAlias = Callable[[Callable[[_Parts], torch.Tensor], Iterable[_Parts]], Iterable[torch.Tensor]]


def decide_layer(search: Search, linears: Sequence[Linear], groups: Sequence[SmoothingGroup]) -> Decided:
    """linears, groups: all of one decoder layer's; `search.averages` is filled in here."""
    quantized = [linear for linear in linears if linear.name in search.quantized]
    search, notes = _with_averages(search, quantized)
    with _pool() as pool:
        found = find_scales(search, groups, pool.map if search.device.type == "cpu" else map)
    tensors: dict[str, torch.Tensor] = {}
    for group, result in zip(groups, found, strict=True):
        if result is None:
            continue
        scale = _storable(search, group, result.scale)
        tensors[group.source + ".out"] = scale
        tensors[group.source + ".loss"] = result.loss
        for reader in group.readers:
            tensors[reader.name + ".in"] = scale
            if reader.name not in search.quantized:
                tensors[reader.name + ".rounding"] = _rounding(search, group, reader, scale)
    for linear in quantized if search.clip else ():
        if _reached(search, linear):
            tensors[linear.name + ".importance"] = mean_square(search.seen(linear))
    return Decided(_stacked(tensors), tuple(notes))


def _reached(search: Search, linear: Linear) -> bool:
    return search.statistics.has(linear.name) and search.seen(linear).count > 0


def find_scales(search: Search, groups: Sequence[SmoothingGroup], each: _Each) -> list[Found | None]:
    """The best scale of the grid for every group; None where calibration saw nothing of its input.

    each: `map`, or one that works on several threads.
    """
    parts: list[_Part] = []
    x_means: dict[int, torch.Tensor] = {}
    for number, group in enumerate(groups):
        readers = [r for r in group.readers if r.name in search.quantized and search.statistics.has(r.name)]
        inputs = _by_input(readers)
        inputs = [same for same in inputs if same[0].name not in search.averages] or inputs
        x_mean = _mean_input([linears[0] for linears in inputs], search)
        if x_mean is not None:
            x_means[number] = x_mean
            parts += [_Part(number, linears) for linears in inputs]
    batches = _alike(search, parts)

    def summed(measure: Callable[[_Parts], torch.Tensor]) -> dict[int, torch.Tensor]:
        """Of every group, over its parts in their order."""
        made = [one for batch in each(_in_turn(search, measure), batches) for one in batch]
        by_part = dict(zip((part for batch in batches for part in batch), made, strict=True))
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


def _alike(search: Search, parts: Sequence[_Part]) -> list[_Parts]:
    """One by one on the processor; on a GPU parts of the same shapes and numbers of sample rows side by side."""
    if search.device.type == "cpu":
        return [(part,) for part in parts]
    alike: dict[tuple[object, ...], list[_Part]] = {}
    for part in parts:
        shapes = tuple((linear.out_features, linear.in_features) for linear in part.linears)
        alike.setdefault((shapes, len(search.seen(part.linears[0]).sample)), []).append(part)
    found: list[_Parts] = []
    for (_, sampled), same in alike.items():
        columns = same[0].linears[0].in_features
        weights = sum(linear.out_features for linear in same[0].linears) * columns
        rows = len(search.points) * int(sampled) * columns  # type: ignore[call-overload]
        number = max(1, _AT_GPU // max(weights, rows, 1))
        found += [tuple(same[start : start + number]) for start in range(0, len(same), number)]
    return found


def _in_turn(search: Search, measure: Callable[[_Parts], torch.Tensor]) -> Callable[[_Parts], torch.Tensor]:
    def measured(batch: _Parts) -> torch.Tensor:
        with turn(search.device):
            return measure(batch).cpu()

    return measured


def _weights(search: Search, batch: _Parts) -> torch.Tensor:
    """[parts, out, in], on the device; the Linears of a part below one another."""
    first = batch[0].linears
    columns, rows = first[0].in_features, [linear.out_features for linear in first]
    if len(batch) == len(first) == 1:
        return search.weight(first[0].name).to(search.device)[None]
    held = None
    for place, part in enumerate(batch):
        start = 0
        for linear, height in zip(part.linears, rows, strict=True):
            weight = search.weight(linear.name)
            if held is None:
                held = torch.empty((len(batch), sum(rows), columns), dtype=weight.dtype, device=search.device)
            held[place, start : start + height].copy_(weight)
            start += height
    assert held is not None  # a part has a Linear
    return held


def _losses(search: Search, batch: _Parts, scales: Mapping[int, torch.Tensor], *, clip: bool) -> torch.Tensor:
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


def _with_averages(search: Search, linears: Sequence[Linear]) -> tuple[Search, list[str]]:
    """Find Linears that too few calibration tokens reached, and the statistics to use instead."""
    by_site: dict[str, list[Linear]] = {}
    notes = []
    averages: dict[str, InputStatistics] = {}
    for linear in linears:
        if not search.statistics.has(linear.name):
            notes.append(f"{linear.name}: rounded without scaling, since calibration has no statistics of its input")
        else:
            by_site.setdefault(linear.site, []).append(linear)
    for same in by_site.values():
        for linear in same:
            instead = stand_in(search.statistics, linear.name)
            if instead is not None:
                averages[linear.name] = instead
            elif search.statistics.of_linear(linear.name).count == 0:
                notes.append(f"{linear.name}: rounded without scaling, since no calibration token reached it")
    if averages and linears[0].layer is not None:
        notes += note(search.statistics, linears[0].layer)
    return replace(search, averages=averages), notes


def _storable(search: Search, group: SmoothingGroup, scale: torch.Tensor) -> torch.Tensor:
    """For a norm, the scale nearby whose quotient its dtype holds: only then is nothing lost between norm and readers.

    1 where the norm is zero, or its quotient is (a channel that carries nothing).
    """
    dtype = search.stored.get(group.source + ".weight")
    weight = search.weight(group.source) if dtype is not None else None
    if weight is None or weight.dim() != 1:
        return scale
    offset = 1.0 if group.one_plus else 0.0
    effective = weight.float() + offset
    stored = (effective / scale - offset).to(dtype).float() + offset
    exact = effective / stored
    return torch.where(torch.isfinite(exact) & (exact > 0), exact, 1.0)


def _rounding(search: Search, group: SmoothingGroup, reader: Linear, scale: torch.Tensor) -> torch.Tensor:
    source = next((r for r in (reader, *group.readers) if search.statistics.has(r.name)), None)
    weight = search.weight(reader.name).double()
    rows = torch.eye(reader.in_features) if source is None else search.seen(source).sample
    stored = (weight * scale).to(search.stored[reader.weight]).double() / scale
    outputs = rows.double() @ weight.t()
    return ((rows.double() @ stored.t() - outputs).norm() / outputs.norm().clamp(min=1e-30)).reshape(())


def _stacked(tensors: Mapping[str, torch.Tensor]) -> Decisions:
    """Experts' tensors under one name: stacked, or once where all are the same (the scale of their common norm)."""
    grouped: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        expert = _EXPERT.search(name)
        grouped.setdefault(_EXPERT.sub("*", name), []).append((int(expert.group(0)) if expert else 0, tensor))
    found = {}
    for name, parts in grouped.items():
        ordered = [tensor for _, tensor in sorted(parts, key=lambda part: part[0])]
        common = "*" not in name or (len(ordered) > 1 and all(tensor is ordered[0] for tensor in ordered))
        found[name] = ordered[0] if common else torch.stack(ordered)
    return found


def decided(decisions: Decisions, module: str, what: str) -> torch.Tensor | None:
    """A module's "in", "out" or "importance", float32 [channels]; None where it has none."""
    found = decisions.get(f"{_EXPERT.sub('*', module)}.{what}")
    expert = _EXPERT.search(module)
    return found[int(expert.group(0))] if found is not None and found.dim() == 2 and expert else found


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads. Each runs torch on one: blocks are small, and sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
