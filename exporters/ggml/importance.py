"""Importance matrices from calibration statistics, with llama-quantize's own arithmetic."""

from collections.abc import Mapping

import torch

from exporters.protocol import Decided
from sixfold.architecture import Linear
from sixfold.errors import SixfoldError
from sixfold.gguf_names import gguf_tensor_names
from sixfold.source import Source
from sixfold.starved import filled, note
from sixfold.statistics import Statistics

NEVER_WEIGHTED = ("ffn_gate_inp", "ffn_gate_inp_shexp")
"""Routers stay float32."""


def weighted_linears(source: Source, layer: int | None = None) -> dict[str, list[Linear]]:
    """GGUF tensor name -> the Linears that it holds, experts in order; of all decoder layers or of one.

    As llama-imatrix does, embeddings and output are left without.
    """
    linears = {
        linear.weight: linear
        for linear in source.architecture.linears
        if linear.layer is not None and layer in (None, linear.layer)
    }
    found: dict[str, list[Linear]] = {}
    for name, gguf_name in gguf_tensor_names(source.checkpoint.config, linears).items():
        if gguf_name.split(".")[-2] not in NEVER_WEIGHTED:
            found.setdefault(gguf_name, []).append(linears[name])
    return {name: sorted(parts, key=lambda linear: linear.expert or 0) for name, parts in found.items()}


def layer_importance(linears: Mapping[str, list[Linear]], statistics: Statistics, layer: int) -> Decided:
    """The mean square of every input channel: float32 [C], of stacked experts [E, C], by GGUF name.

    linears: of the layer, as from `weighted_linears`. An expert that too few tokens reached is weighted
    by what stands in for it (see sixfold.starved), and where nothing does, by all channels alike, as in llama-quantize.
    Raises SixfoldError where the calibration overflowed or did not see a Linear.
    """
    rows: dict[str, torch.Tensor] = {}
    unreached: dict[str, int] = {}
    decided: dict[str, torch.Tensor] = {}
    for gguf_name, parts in linears.items():
        for linear in parts:
            site, _ = statistics.place_of(linear.name)
            if site not in rows:
                rows[site], unreached[site] = _mean_square(statistics, site, layer)
        places = [statistics.site_of[linear.name] for linear in parts]
        each = [rows[site] if expert is None else rows[site][expert] for site, expert in places]
        decided[gguf_name] = each[0].clone() if parts[0].expert is None else torch.stack(each)
    notes = [
        f"layer {layer}: no calibration token reached {number} experts' inputs ({site}); their channels weigh alike"
        for site, number in unreached.items()
        if number
    ]
    return Decided(decided, (*note(statistics, layer), *notes))


def _mean_square(statistics: Statistics, site: str, layer: int) -> tuple[torch.Tensor, int]:
    """float32 [C] or [E, C], and how many experts no token reached."""
    found = filled(statistics, site, ("sum_sq", "count"))
    total, count = found["sum_sq"], found["count"]
    if not bool(torch.isfinite(total).all()):
        raise SixfoldError(
            f"the calibration overflowed at {site} of layer {layer}", "use fewer samples, or check the checkpoint there"
        )
    seen = (count > 0).unsqueeze(-1)
    mean = total / count.to(torch.float32).clamp(min=1).unsqueeze(-1)
    return torch.where(seen, mean, torch.ones_like(mean)), int((count == 0).sum())
