"""Search the scales of one decoder layer from calibration's statistics and sampled rows, a Linear at a time.

What is decided, by name ("*" stands for every expert of the layer):

    <module>.out       float32 [out], or [experts, out] for the experts' up projections: divides the module's outputs
    <module>.in        float32 [in], or [experts, in] for the experts' down projections: multiplies the input channels
    <module>.importance  float32 [in] or [experts, in]: mean square of the module's inputs, where ranges are clipped
    <source>.loss      float64 [2] or [experts, 2]: relative squared error of the readers' outputs times the tokens
                       they saw, rounded plainly and with the chosen scale
    <reader>.rounding  float64 []: relative change of an unquantized reader's outputs by rounding its rescaled weights

The number of threads changes nothing: see exporters.smoothing.scale_search.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch

from exporters.protocol import Decided, Decisions
from exporters.smoothing.scale_search import Search, find_scales, mean_square
from exporters.smoothing.smoothing_groups import SmoothingGroup
from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.model.architecture import Linear
from sixfold.statistics.starved_experts import note, stand_in
from sixfold.statistics.statistics import InputStatistics

_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


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
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        yield pool
