"""How much an expert matters, by what calibration saw of it. Larger is more; experts with the least are pruned."""

from collections.abc import Callable

import torch

from sixfold.errors import UsageError
from sixfold.statistics.statistics import ExpertStatistics

Criterion = Callable[[ExpertStatistics], torch.Tensor]


def reap(seen: ExpertStatistics) -> torch.Tensor:
    """Mean over the tokens routed to an expert of gate value times output norm (REAP, arXiv:2510.13999)."""
    return _mean(seen.saliency_sum, seen.routed)


def weighted_ean(seen: ExpertStatistics) -> torch.Tensor:
    """Sum of gate value times output norm: REAP's saliency times how often the expert was routed to."""
    return seen.saliency_sum.double()


def ean(seen: ExpertStatistics) -> torch.Tensor:
    """Sum of the norms of the expert's outputs ("expert activation norm"), whatever the gate made of them."""
    return seen.norm_sum.double()


def frequency(seen: ExpertStatistics) -> torch.Tensor:
    """Number of tokens routed to the expert."""
    return seen.routed.double()


CRITERIA: dict[str, Criterion] = {"reap": reap, "frequency": frequency, "ean": ean, "weighted-ean": weighted_ean}
RANDOM = "random"
NAMES = (*CRITERIA, RANDOM)


def saliency(criterion: str, seen: ExpertStatistics, *, seed: int, layer: int) -> torch.Tensor:
    """float64 [experts]. `seed` and `layer` matter to "random" alone, the control that every other must beat."""
    if criterion == RANDOM:
        draw = torch.Generator().manual_seed(seed * 1_000_003 + layer)
        return torch.rand(len(seen.routed), generator=draw, dtype=torch.float64)
    if criterion not in CRITERIA:
        raise UsageError(f"there is no criterion {criterion!r}", f"the criteria are {', '.join(NAMES)}")
    return CRITERIA[criterion](seen)


def super_experts(seen: ExpertStatistics, *, times: float = 10.0) -> tuple[int, ...]:
    """Experts whose largest output is more than `times` the median of the layer's: a few such carry the massive
    activations that attention sinks rest on, and a model without them falls apart (arXiv:2507.23279)."""
    largest = seen.output_max.double()
    bound = times * float(largest.median())
    return tuple(int(expert) for expert in (largest > bound).nonzero()[:, 0]) if bound > 0 else ()


def _mean(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Zero where nothing was counted: an expert that no token reached is the first to go."""
    return total.double() / count.clamp(min=1)
