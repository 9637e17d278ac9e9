"""Which experts are kept: the most salient of each layer, of each group, or of the entire model."""

from collections.abc import Collection, Mapping

import torch

from pruning.anatomy import Anatomy
from sixfold.errors import UsageError


def most_salient(saliency: torch.Tensor, kept: int, protected: Collection[int] = ()) -> tuple[int, ...]:
    """Indices of the `kept` largest of saliency [experts], ascending; the protected ones before all others. Of equals
    the lower index stays."""
    order = sorted(range(len(saliency)), key=lambda e: (e not in protected, -float(saliency[e]), e))
    return tuple(sorted(order[:kept]))


def by_layer(
    anatomy: Anatomy, saliency: Mapping[int, torch.Tensor], kept: int, protected: Mapping[int, Collection[int]]
) -> dict[int, tuple[int, ...]]:
    """The same number in every layer, and within a layer in every group of the router."""
    size, each = anatomy.group_size, kept // anatomy.groups
    chosen = {}
    for layer in anatomy.layers:
        inside = protected.get(layer, ())
        chosen[layer] = tuple(
            start + expert
            for start in range(0, anatomy.experts, size)
            for expert in most_salient(
                saliency[layer][start : start + size], each, {e - start for e in inside if start <= e < start + size}
            )
        )
    return chosen


def over_all_layers(
    anatomy: Anatomy, saliency: Mapping[int, torch.Tensor], kept: int, protected: Mapping[int, Collection[int]]
) -> dict[int, tuple[int, ...]]:
    """`kept` experts a layer on average, wherever the most salient are; no layer falls below top-k.

    An expert's saliency counts as its share of the layer's, as later layers have larger outputs. Raises UsageError
    where config.json has one number of experts for all layers, or the router is group-limited.
    """
    check_free_counts(anatomy)
    shares = {
        layer: values / values.sum().clamp(min=torch.finfo(torch.float64).tiny) for layer, values in saliency.items()
    }
    chosen = {
        layer: set(
            most_salient(shares[layer], max(anatomy.top_k, len(protected.get(layer, ()))), protected.get(layer, ()))
        )
        for layer in anatomy.layers
    }
    rest = [
        (-float(shares[layer][expert]), layer, expert)
        for layer in anatomy.layers
        for expert in range(anatomy.experts)
        if expert not in chosen[layer]
    ]
    missing = kept * len(anatomy.layers) - sum(len(experts) for experts in chosen.values())
    for _, layer, expert in sorted(rest)[: max(missing, 0)]:
        chosen[layer].add(expert)
    return {layer: tuple(sorted(experts)) for layer, experts in chosen.items()}


def check_free_counts(anatomy: Anatomy) -> None:
    """Raises UsageError where layers cannot keep different numbers of experts."""
    if not anatomy.per_layer:
        fields = ", ".join(".".join(key) for key in anatomy.keys)
        raise UsageError(
            f"a global budget needs a number of experts for each layer, and config.json has one for all ({fields})",
            "leave --budget out: every layer then keeps the same number",
        )
    if anatomy.groups > 1:
        raise UsageError("a group-limited router needs the same number of experts in each group", "leave --budget out")
