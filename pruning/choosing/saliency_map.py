"""saliency.svg: how much every expert of every layer mattered, and which stay."""

from collections.abc import Sequence

from pruning.choosing.plan_file import LayerPlan, PruningPlan
from sixfold.drawing.heat_map import Cell, Row
from sixfold.drawing.heat_map import heat_map as drawn


def heat_map(plan: PruningPlan) -> str:
    """An SVG: a row for each layer, a cell for each expert, colored by its rank among the layer's; pruned experts are
    drawn small. Ranks, since saliency grows from layer to layer and within a layer spans orders of magnitude."""
    kept = sum(len(entry.kept) for entry in plan.layers)
    total = sum(entry.experts for entry in plan.layers)
    return drawn(
        f"{plan.model}: {plan.criterion}, {kept} of {total} experts stay",
        "full cells stay, small ones were pruned; colored by the rank of their saliency in the layer",
        [Row(str(entry.layer), tuple(_cells(entry))) for entry in plan.layers],
        least="least",
        most="most salient",
    )


def _cells(entry: LayerPlan) -> list[Cell]:
    shades = _ranks(entry.saliency) if entry.saliency else [0.5] * entry.experts
    kept = set(entry.kept)
    return [
        Cell(shade, f"layer {entry.layer}, expert {expert}: {_said(entry, expert, expert in kept)}", expert not in kept)
        for expert, shade in enumerate(shades)
    ]


def _said(entry: LayerPlan, expert: int, kept: bool) -> str:
    value = f"{entry.saliency[expert]:.4g}, " if entry.saliency else ""
    return f"{value}{'stays' if kept else 'pruned'}"


def _ranks(values: Sequence[float]) -> list[float]:
    """0 for the least, 1 for the most."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    for rank, index in enumerate(order):
        ranks[index] = rank / max(len(values) - 1, 1)
    return ranks
