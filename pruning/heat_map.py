"""saliency.svg: how much every expert of every layer mattered, and which stay."""

from collections.abc import Sequence

from pruning.plan_file import LayerPlan, PruningPlan

_LEFT, _TOP, _BOTTOM = 64, 58, 46
_WIDTH, _NARROWEST = 960, 640  # the first lines of text need as much
_LOW, _HIGH = (247, 244, 235), (178, 24, 43)
"""Colours of the least and the most salient expert of a layer."""


def heat_map(plan: PruningPlan) -> str:
    """An SVG: a row for each layer, a cell for each expert, coloured by its rank among the layer's; pruned experts are
    drawn small. Ranks, since saliency grows from layer to layer and within a layer spans orders of magnitude."""
    experts = max(entry.experts for entry in plan.layers)
    cell = max(4, min(28, (_WIDTH - _LEFT) // experts))
    width = _LEFT + cell * experts + 16
    height = _TOP + cell * len(plan.layers) + _BOTTOM
    kept = sum(len(entry.kept) for entry in plan.layers)
    total = sum(entry.experts for entry in plan.layers)
    title = f"{plan.model}: {plan.criterion}, {kept} of {total} experts stay"
    body = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, _NARROWEST)}" height="{height}" role="img"'
            ' font-family="sans-serif" font-size="11">'
        ),
        f"<title>{_escaped(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{_escaped(title)}</text>',
        (
            f'<text x="{_LEFT}" y="40" fill="#555">full cells stay, small ones were pruned; the darker, the more'
            " salient in its layer</text>"
        ),
    ]
    step = max(1, -(-12 // cell))
    for row, entry in enumerate(plan.layers):
        y = _TOP + row * cell
        if row % step == 0:
            body.append(f'<text x="{_LEFT - 8}" y="{y + cell / 2 + 4:g}" text-anchor="end">{entry.layer}</text>')
        body.extend(_cells(entry, y, cell))
    bottom = _TOP + cell * len(plan.layers)
    for expert in range(0, experts, max(1, 8 * step if experts > 32 else step)):
        body.append(
            f'<text x="{_LEFT + expert * cell + cell / 2:g}" y="{bottom + 14}" text-anchor="middle">{expert}</text>'
        )
    body.append(f'<text x="{_LEFT}" y="{bottom + 34}" fill="#555">expert, in rows of decoder layers</text>')
    return "\n".join([*body, "</svg>"]) + "\n"


def _cells(entry: LayerPlan, y: int, cell: int) -> list[str]:
    shades = _ranks(entry.saliency) if entry.saliency else [0.5] * entry.experts
    kept = set(entry.kept)
    found = []
    for expert, shade in enumerate(shades):
        inset = 0.5 if expert in kept else cell * 0.3
        side = cell - 2 * inset
        x = _LEFT + expert * cell + inset
        found.append(
            f'<rect x="{x:g}" y="{y + inset:g}" width="{side:g}" height="{side:g}" fill="{_colour(shade)}"'
            f"><title>layer {entry.layer}, expert {expert}: {_said(entry, expert, expert in kept)}</title></rect>"
        )
    return found


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


def _colour(shade: float) -> str:
    mixed = (round(low + (high - low) * shade) for low, high in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
