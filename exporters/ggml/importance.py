"""Importance matrices from calibration statistics, with llama-quantize's own arithmetic."""

from collections.abc import Mapping, Sequence

import torch

from exporters.protocol import Decided
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.model.gguf.arrangements import latent_half
from sixfold.model.source import Source
from sixfold.statistics.gguf_weights import weights_of
from sixfold.statistics.starved_experts import filled, note
from sixfold.statistics.statistics import HeadInputs, Statistics


def weighted_linears(source: Source, layer: int | None = None) -> dict[str, tuple[Linear, ...]]:
    """GGUF tensor name -> the Linears that it holds, experts in order; of all decoder layers or of one."""
    return {name: weight.linears for name, weight in weights_of(source, layer).items() if weight.weighted}


def layer_importance(linears: Mapping[str, Sequence[Linear]], statistics: Statistics, layer: int) -> Decided:
    """The mean square of every input channel by GGUF name: float32 [C], of stacked experts [E, C], of a half of
    kv_b_proj one row for each head, [heads, C].

    linears: of the layer, as from `weighted_linears`. An expert that too few tokens reached is weighted
    by its replacement (see sixfold.statistics.starved_experts), and where nothing does, by all channels alike,
    as in llama-quantize. Raises SixfoldError where the calibration overflowed or did not see a Linear.
    """
    rows: dict[str, torch.Tensor] = {}
    unreached: dict[str, int] = {}
    decided: dict[str, torch.Tensor] = {}
    for gguf_name, parts in linears.items():
        if half := latent_half(gguf_name):
            found = statistics.head_inputs(parts[0].name, layer, half)
            if found is not None or statistics.imatrix is None:  # a matrix made elsewhere may lack it
                decided[gguf_name] = _heads_mean_square(found, parts[0].name, layer)
            continue
        for linear in parts:
            site, _ = statistics.place_of(linear.name)
            if site not in rows:
                rows[site], unreached[site] = _mean_square(statistics, site, layer)
        first = {linear.expert: linear for linear in reversed(parts)}  # gate and up read the same
        places = [statistics.site_of[first[expert].name] for expert in sorted(first, key=lambda index: index or 0)]
        each = [rows[site] if expert is None else rows[site][expert] for site, expert in places]
        decided[gguf_name] = each[0].clone() if parts[0].expert is None else torch.stack(each)
    notes = [
        f"layer {layer}: no calibration token reached {number} experts' inputs ({site}); their channels weigh equally"
        for site, number in unreached.items()
        if number
    ]
    return Decided(decided, (*note(statistics, layer), *notes))


def _mean_square(statistics: Statistics, site: str, layer: int) -> tuple[torch.Tensor, int]:
    """float32 [C] or [E, C], and how many experts no token reached."""
    found = filled(statistics, site, ("sum_sq", "count"))
    total, count = found["sum_sq"], found["count"]
    _check_finite(total, site, layer)
    # Channels that never carried anything leave llama.cpp nothing to weigh by, and it writes zeros for the weights.
    seen = ((count > 0) & (total > 0).any(-1)).unsqueeze(-1)
    mean = total / count.to(torch.float32).clamp(min=1).unsqueeze(-1)
    return torch.where(seen, mean, torch.ones_like(mean)), int((count == 0).sum())


def _heads_mean_square(found: HeadInputs | None, linear: str, layer: int) -> torch.Tensor:
    """float32 [heads, C]."""
    if found is None:
        raise SixfoldError(
            f"the calibration did not see what the halves of {linear} read",
            "run `sixfold calibrate` again for this checkpoint",
        )
    _check_finite(found.sum_sq, linear, layer)
    mean = found.sum_sq / max(found.count, 1)
    return mean if found.count else torch.ones_like(mean)


def _check_finite(total: torch.Tensor, site: str, layer: int) -> None:
    if not bool(torch.isfinite(total).all()):
        raise SixfoldError(
            f"the calibration overflowed at {site} of layer {layer}", "use fewer samples, or check the checkpoint there"
        )
