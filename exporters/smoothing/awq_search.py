"""Search the scales of one decoder layer from calibration's statistics and sampled rows, a Linear at a time.

What is decided, by name ("*" stands for every expert of the layer):

    <module>.out       float32 [out], or [experts, out] for the experts' up projections: divides the module's outputs
    <module>.in        float32 [in], or [experts, in] for the experts' down projections: multiplies the input channels
    <module>.importance  float32 [in] or [experts, in]: mean square of the module's inputs, where ranges are clipped
    <source>.loss      float64 [2] or [experts, 2]: relative squared error of the readers' outputs times the tokens
                       they saw, rounded plainly and with the chosen scale
    <reader>.rounding  float64 []: relative change of an unquantized reader's outputs by rounding its rescaled weights

Sums over Linears are taken in source order and each Linear by one thread, so the number of threads changes nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from exporters.numerics.awq_candidates import PLAIN, GridPoint, candidate_scales, losses, output_energy, weight_sum
from exporters.protocol import Decided, Decisions
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
    averages: replacement statistics of Linears that too few tokens reached, by name."""

    checkpoint: Checkpoint
    statistics: Statistics
    quantized: frozenset[str]
    stored: Mapping[str, torch.dtype]
    points: Sequence[GridPoint]
    group_size: int
    clip: bool
    averages: Mapping[str, InputStatistics]

    def weight(self, name: str) -> torch.Tensor:
        return self.checkpoint.read(whole(self.checkpoint.tensors[name + ".weight"]))

    def seen(self, linear: Linear) -> InputStatistics:
        average = self.averages.get(linear.name)
        return self.statistics.of_linear(linear.name) if average is None else average


@dataclass(frozen=True)
class Found:
    """scale: float32 [channels]. loss: float64 [2], rounded plainly and with the best scale of the grid."""

    scale: torch.Tensor
    loss: torch.Tensor


_Linears: TypeAlias = tuple[Linear, ...]
_Each: TypeAlias = Callable[[Callable[[_Linears], torch.Tensor], Iterable[_Linears]], Iterable[torch.Tensor]]


def decide_layer(search: Search, linears: Sequence[Linear], groups: Sequence[SmoothingGroup]) -> Decided:
    """linears, groups: all of one decoder layer's; `search.averages` is filled in here."""
    quantized = [linear for linear in linears if linear.name in search.quantized]
    search, notes = _with_averages(search, quantized)
    alone = [group for group in groups if len(group.readers) == 1]
    found: dict[str, Found | None] = {}
    with _pool() as pool:
        found |= zip([g.source for g in alone], pool.map(lambda g: find_scale(search, g, map), alone), strict=True)
        found |= {g.source: find_scale(search, g, pool.map) for g in groups if g.source not in found}
    tensors: dict[str, torch.Tensor] = {}
    for group in groups:
        result = found[group.source]
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


def find_scale(search: Search, group: SmoothingGroup, each: _Each) -> Found | None:
    """The best scale of the grid; None where calibration saw nothing of the group's input.

    each: `map`, or one that works on several threads.
    """
    readers = [r for r in group.readers if r.name in search.quantized and search.statistics.has(r.name)]
    inputs = _by_input(readers)
    inputs = [same for same in inputs if same[0].name not in search.averages] or inputs
    x_mean = _mean_input([linears[0] for linears in inputs], search)
    if x_mean is None:
        return None

    def magnitudes(linears: _Linears) -> torch.Tensor:
        return torch.stack([weight_sum(search.weight(x.name), search.group_size) for x in linears]).sum(0)

    w_sum = torch.stack(list(each(magnitudes, inputs))).sum(0)
    w_mean = (w_sum / sum(linear.out_features for same in inputs for linear in same)).float()
    scales = candidate_scales(search.points, x_mean, w_mean)
    total = torch.stack(list(each(lambda linears: _losses(search, linears, scales, clip=False), inputs))).sum(0)
    ends = [search.points.index(PLAIN), int(total.argmin())]
    scales, total = scales[ends], total[ends]
    if search.clip:
        # Clipped ranges cost several times as much to find, and take a part of the gain: is the best still better?
        total = torch.stack(list(each(lambda linears: _losses(search, linears, scales, clip=True), inputs))).sum(0)
    best = int(total.argmin())
    return Found(scales[best], torch.stack([total[0], total[best]]))


def _losses(search: Search, linears: _Linears, scales: torch.Tensor, *, clip: bool) -> torch.Tensor:
    """Error per candidate of Linears with one input, times the tokens that they saw: float64 [candidates].

    Each Linear's error is relative to its own outputs: what reads them (a norm, an activation function, a product)
    makes their magnitudes incomparable, and the larger outputs would decide for all.
    """
    seen = search.seen(linears[0])
    if not len(seen.sample):
        return torch.zeros(len(scales), dtype=torch.float64)
    weight = torch.cat([search.weight(linear.name) for linear in linears])
    found = losses(weight, seen.sample, scales, search.group_size, mean_square(seen) if clip else None)
    sizes = [linear.out_features for linear in linears]
    errors = torch.stack([part.sum(1, dtype=torch.float64) for part in found.split(sizes, 1)])
    outputs = torch.stack([part.sum(dtype=torch.float64) for part in output_energy(weight, seen.sample).split(sizes)])
    return (errors / outputs.clamp(min=1e-30)[:, None]).sum(0) * seen.count


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
