"""What AWQ's search of one decoder layer takes, on the processor or on a GPU.

    python -m benchmarks.speed.awq_layer [CONFIG] [--experts 154] [--device cuda] [--rows 128] [--runs 2]
                                           [--tokens 4096]

CONFIG is a config.json, docs/configs/minimax-m2.7.json by default. Weights and inputs of its first decoder layer that
has experts are random, and in memory, as they are in an export's walk: what is timed is `decide` without reading, with
the weights' way to the device. Prints seconds a layer, and the peak of the device's memory.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from exporters.awq import options_of
from exporters.numerics.awq_candidates import grid
from exporters.selection import select
from exporters.smoothing.awq_search import decide_layer
from exporters.smoothing.scale_search import Search
from exporters.smoothing.smoothing_groups import misfit_of, smoothing_groups
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import describe_source
from sixfold.recipes.recipe import load_recipes
from sixfold.statistics.statistics import InputStatistics

CONFIG = Path(__file__).parents[2] / "docs" / "configs" / "minimax-m2.7.json"


@dataclass(frozen=True)
class InMemory:
    """As much of a Checkpoint as the search reads."""

    tensors: Mapping[str, object]
    weights: Mapping[str, torch.Tensor]

    def read(self, part: TensorSlice) -> torch.Tensor:
        return self.weights[part.name]


@dataclass(frozen=True)
class Inputs:
    """As much of Statistics as the search reads: `rows` sample rows of `tokens` for each input."""

    places: Mapping[str, tuple[str, int | None]]
    seen: Mapping[tuple[str, int | None], InputStatistics]

    def has(self, name: str) -> bool:
        return name in self.places

    def place_of(self, name: str) -> tuple[str, int | None]:
        return self.places[name]

    def of_linear(self, name: str) -> InputStatistics:
        return self.seen[self.places[name]]

    def starved_of(self, site: str) -> tuple[int, ...]:
        return ()


def search_of(config: Path, experts: int | None, device: str, rows: int, tokens: int):  # type: ignore[no-untyped-def]
    source = describe_source(str(config), experts=experts)
    (recipe,) = load_recipes("awq", ["rounding=nearest"])
    options = options_of(source, recipe)
    layer = next(linear.layer for linear in source.architecture.linears if linear.expert is not None)
    linears = [linear for linear in source.architecture.linears if linear.layer == layer]
    quantized = select(linears, recipe, misfit_of(options.group_size)).quantized
    groups = smoothing_groups(source, linears, quantized)
    names = [li.weight for li in linears] + [f"{group.source}.weight" for group in groups]
    tensors = {name: source.checkpoint.tensors[name] for name in dict.fromkeys(names)}
    random = torch.Generator().manual_seed(0)
    drawn = {tensor.shape: torch.randn(tensor.shape, generator=random) for tensor in tensors.values()}
    weights = {name: (drawn[tensor.shape] * 0.02).bfloat16() for name, tensor in tensors.items()}
    places = {li.name: (li.site, li.expert) for li in linears}
    channels = {(li.site, li.expert): li.in_features for li in linears}
    seen = {place: _statistics(rows, number, tokens, random) for place, number in channels.items()}
    kept = {name: torch.bfloat16 for name in tensors if name.removesuffix(".weight") not in quantized}
    points = grid(options.grid, options.duo_scaling)
    search = Search(
        InMemory(tensors, weights),  # type: ignore[arg-type]
        Inputs(places, seen),  # type: ignore[arg-type]
        quantized,
        kept,
        points,
        options.group_size,
        options.clip,
        {},
        torch.device(device),
    )
    return search, linears, groups, sum(weights[li.weight].numel() for li in linears if li.name in quantized)


def _statistics(rows: int, channels: int, tokens: int, random: torch.Generator) -> InputStatistics:
    sample = torch.randn(rows, channels, generator=random) * torch.randn(channels, generator=random).exp()
    scale = tokens / rows
    absolute = sample.abs()
    return InputStatistics(
        tokens, sample.square().sum(0) * scale, absolute.sum(0) * scale, absolute.amax(0), sample.bfloat16()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=CONFIG)
    parser.add_argument("--experts", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    search, linears, groups, weights = search_of(
        options.config, options.experts, options.device, options.rows, options.tokens
    )
    for _ in range(options.runs):
        begun = perf_counter()
        found = decide_layer(search, linears, groups)
        seconds = perf_counter() - begun
        peak = torch.cuda.max_memory_allocated() / 1e9 if options.device != "cpu" else 0
        losses = [value for name, value in found.tensors.items() if name.endswith(".loss")]
        plain, best = (sum(float(loss[..., n].sum()) for loss in losses) for n in (0, 1))
        print(
            f"{seconds:.2f} s a layer of {weights / 1e9:.3f} billion weights on {options.device}, peak {peak:.1f} GB of"
            f" the device; error {best / plain:.3f} times that of plain rounding"
        )


if __name__ == "__main__":
    main()
