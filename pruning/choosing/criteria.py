"""How important an expert is, by calibration's statistics. Larger is more important; the least important are pruned.

A criterion is one function here under `@criterion`: its name on the command line is the function's, and the first
sentence of its docstring is its help. Nothing heavy is imported, so that `--help` lists them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixfold.errors import UsageError

if TYPE_CHECKING:
    import torch

    from sixfold.statistics.statistics import ExpertStatistics

    Judge = Callable[[ExpertStatistics], torch.Tensor]

RANDOM = "random"
"""The control that every criterion must beat; it needs no statistics."""

AIMER = "aimer"
"""By weights alone (pruning.choosing.weight_criteria): a stronger control, which needs no statistics either."""

DEFAULT = "weighted-ean"
"""What costs least on all models at hand: `python -m benchmarks.quality.pruning`."""

_TITLES = {RANDOM: "Random", AIMER: "AIMER"}


@dataclass(frozen=True)
class Criterion:
    """title: in the name of a pruned checkpoint. help: one sentence. judge: float64 [experts]."""

    title: str
    help: str
    judge: "Judge"


CRITERIA: dict[str, Criterion] = {}
"""By name, in the order in which help lists them."""


def criterion(title: str) -> "Callable[[Judge], Judge]":
    """Enters the function that it decorates into CRITERIA."""

    def enter(judge: "Judge") -> "Judge":
        name = judge.__name__.replace("_", "-")
        CRITERIA[name] = Criterion(title, " ".join((judge.__doc__ or "").split()), judge)
        return judge

    return enter


@criterion("REAP")
def reap(seen: "ExpertStatistics") -> "torch.Tensor":
    """Mean over the tokens routed to an expert of gate value times output norm (REAP, arXiv:2510.13999)."""
    return _mean(seen.saliency_sum, seen.routed)


@criterion("Frequency")
def frequency(seen: "ExpertStatistics") -> "torch.Tensor":
    """Number of tokens routed to the expert."""
    return seen.routed.double()


@criterion("EAN")
def ean(seen: "ExpertStatistics") -> "torch.Tensor":
    """Sum of the norms of the expert's outputs ("expert activation norm"), whatever the gate made of them."""
    return seen.norm_sum.double()


@criterion("WeightedEAN")
def weighted_ean(seen: "ExpertStatistics") -> "torch.Tensor":
    """Sum of gate value times output norm: REAP's saliency times how often the expert was routed to."""
    return seen.saliency_sum.double()


@criterion("MAN")
def man(seen: "ExpertStatistics") -> "torch.Tensor":
    """Mean of the norms of the expert's outputs (MAN, arXiv:2606.15716)."""
    return _mean(seen.norm_sum, seen.routed)


@criterion("MSAN")
def msan(seen: "ExpertStatistics") -> "torch.Tensor":
    """Mean of the squared norms of the expert's outputs (MSAN, arXiv:2606.15716)."""
    return _mean(seen.norm_sq_sum, seen.routed)


def names() -> tuple[str, ...]:
    return (*CRITERIA, AIMER, RANDOM)


def title_of(name: str) -> str:
    """Its form in the name of a pruned checkpoint; "" if it is not a criterion of ours."""
    return _TITLES.get(name) or (CRITERIA[name].title if name in CRITERIA else "")


def saliency(name: str, seen: "ExpertStatistics", *, seed: int, layer: int) -> "torch.Tensor":
    """float64 [experts]. Only "random" uses `seed` and `layer`. Raises UsageError for an unknown criterion."""
    if name == RANDOM:
        import torch

        draw = torch.Generator().manual_seed(seed * 1_000_003 + layer)
        return torch.rand(len(seen.routed), generator=draw, dtype=torch.float64)
    if name not in CRITERIA:
        raise UsageError(f"there is no criterion {name!r}", f"the criteria are {', '.join(names())}")
    return CRITERIA[name].judge(seen)


def super_experts(seen: "ExpertStatistics", *, times: float = 10.0) -> tuple[int, ...]:
    """Experts whose largest output is more than `times` the median of the layer's: a few such carry the massive
    activations that attention sinks rest on, and a model without them falls apart (arXiv:2507.23279)."""
    largest = seen.output_max.double()
    bound = times * float(largest.median())
    return tuple(int(expert) for expert in (largest > bound).nonzero()[:, 0]) if bound > 0 else ()


def _mean(total: "torch.Tensor", count: "torch.Tensor") -> "torch.Tensor":
    """Zero where nothing was counted: an expert that no token reached is the first to go."""
    return total.double() / count.clamp(min=1)
