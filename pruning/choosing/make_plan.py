"""From statistics to a plan: rank every expert of every layer, and choose those to keep."""

from dataclasses import dataclass
from typing import Any

import torch

from pruning.anatomy import Anatomy
from pruning.choosing import choose, criteria
from pruning.choosing.plan_file import LayerPlan, PruningPlan
from pruning.choosing.weight_criteria import aimer
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.statistics.statistics import Statistics


@dataclass(frozen=True)
class Request:
    """The request for a plan.

    kept: experts that stay in a layer (on average, where `over_all` layers the budget is shared).
    ratio: what `kept` was computed from, None where a number was given.
    protect: whether super-experts are kept whatever their saliency.
    """

    kept: int
    ratio: float | None = None
    criterion: str = criteria.DEFAULT
    seed: int = 0
    protect: bool = False
    over_all: bool = False


def make_plan(source: Source, anatomy: Anatomy, request: Request, statistics: Statistics) -> PruningPlan:
    """Raises SixfoldError where the statistics are of other layers or numbers of experts than the checkpoint's."""
    seen = {layer: statistics.experts_of(layer) for layer in _layers(anatomy, statistics)}
    for layer, experts in seen.items():
        if len(experts.routed) != anatomy.experts:
            raise SixfoldError(
                f"the calibration in {statistics.folder} saw {len(experts.routed)} experts in layer {layer},"
                f" and the checkpoint has {anatomy.experts}",
                "run `sixfold calibrate` again for this checkpoint",
            )
    saliency = {
        layer: aimer(source, anatomy, layer)
        if request.criterion == criteria.AIMER
        else criteria.saliency(request.criterion, experts, seed=request.seed, layer=layer)
        for layer, experts in seen.items()
    }
    protected = {layer: criteria.super_experts(experts) for layer, experts in seen.items()} if request.protect else {}
    chosen = (choose.over_all_layers if request.over_all else choose.by_layer)(
        anatomy, saliency, request.kept, protected
    )
    used = None
    if request.criterion in criteria.CRITERIA:
        used = {"digest": statistics.digest, "profile": statistics.manifest["profile"]}
    entries = tuple(
        LayerPlan(layer, anatomy.experts, chosen[layer], tuple(protected.get(layer, ())), _shown(saliency[layer]))
        for layer in anatomy.layers
    )
    return _plan(source, request, used, entries)


def first_experts(source: Source, anatomy: Anatomy, request: Request) -> PruningPlan:
    """A plan of the size that is asked for, made without statistics: what a dry run counts the bytes of."""
    same = {layer: torch.ones(anatomy.experts, dtype=torch.float64) for layer in anatomy.layers}
    chosen = choose.by_layer(anatomy, same, request.kept, {})
    entries = tuple(LayerPlan(layer, anatomy.experts, chosen[layer], (), ()) for layer in anatomy.layers)
    return _plan(source, request, None, entries)


def _plan(
    source: Source, request: Request, statistics: dict[str, Any] | None, layers: tuple[LayerPlan, ...]
) -> PruningPlan:
    checkpoint = source.checkpoint
    return PruningPlan(
        model=checkpoint.name,
        source={"fingerprint": checkpoint.fingerprint, "revision": checkpoint.revision},
        criterion=request.criterion,
        ratio=request.ratio,
        budget="global" if request.over_all else "layer",
        seed=request.seed,
        statistics=statistics,
        layers=layers,
    )


def _layers(anatomy: Anatomy, statistics: Statistics) -> tuple[int, ...]:
    missing = sorted(set(anatomy.layers) - set(statistics.moe_layers()))
    if missing:
        raise SixfoldError(
            f"the calibration in {statistics.folder} has no statistics for the experts of layer {missing[0]}",
            "run `sixfold calibrate` again for this checkpoint",
        )
    return anatomy.layers


def _shown(saliency: torch.Tensor) -> tuple[float, ...]:
    """Six significant digits: more than the statistics are good for, and the same on every machine more often."""
    return tuple(float(f"{value:.6g}") for value in saliency.tolist())
