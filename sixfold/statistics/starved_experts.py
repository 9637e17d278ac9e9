"""What replaces the statistics of experts that saw too few calibration tokens, as the profile chose.

"average": the sums over the layer's other experts, so that means are the layer's. "all_experts": the expert's inputs
for tokens that were not routed to it, which calibration kept apart. If no other expert saw enough, nothing is replaced.
"""

from collections.abc import Sequence

import torch

from sixfold.statistics.statistics import InputStatistics, Statistics

_SUMS = ("count", "sum_sq", "sum_abs")


def filled(statistics: Statistics, site: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """`statistics.site`, with the statistics of starved experts replaced; names: of count, sum_sq, sum_abs and
    abs_max."""
    found = statistics.site(site, names)
    experts = list(statistics.starved_of(site))
    if not experts:
        return found
    if statistics.widened:
        extra = statistics.site(site, [f"wide_{name}" for name in names])
        return {name: _replaced(found[name], experts, extra[f"wide_{name}"]) for name in names}
    others = [e for e in range(len(found[names[0]])) if e not in experts]
    if not others:
        return found
    return {
        name: _replaced(value, experts, value[others].sum(0) if name in _SUMS else value[others].amax(0))
        for name, value in found.items()
    }


def _replaced(values: torch.Tensor, experts: list[int], new: torch.Tensor) -> torch.Tensor:
    result = values.clone()
    result[experts] = new.to(values.dtype)
    return result


def stand_in(statistics: Statistics, linear: str) -> InputStatistics | None:
    """For the Linear of a starved expert; None for every other, and if there is no replacement.

    The sample of an average has its mean squares per channel, and no correlations.
    """
    site, expert = statistics.place_of(linear)
    experts = statistics.starved_of(site)
    if expert not in experts:
        return None
    if statistics.widened:
        names = ("count", "sum_sq", "sum_abs", "abs_max", "sample", "sampled")
        found = statistics.site(site, [f"wide_{name}" for name in names])
        count, sum_sq, sum_abs, abs_max, sample, sampled = (
            found[f"wide_{name}"][experts.index(expert)] for name in names
        )
        return InputStatistics(int(count), sum_sq, sum_abs, abs_max, sample[: int(sampled)])
    found = filled(statistics, site, ("count", "sum_sq", "sum_abs", "abs_max"))
    count, sum_sq, sum_abs, abs_max = (value[expert] for value in found.values())
    if len(experts) == len(found["count"]):
        return None
    sample = torch.diag((sum_sq / count * len(sum_sq)).sqrt())
    return InputStatistics(int(count), sum_sq, sum_abs, abs_max, sample)


def note(statistics: Statistics, layer: int) -> tuple[str, ...]:
    """A sentence for the manifest, where experts of the layer saw too few tokens."""
    found = [e for entry in statistics.manifest["moe"].values() if entry["layer"] == layer for e in entry["starved"]]
    if not found:
        return ()
    instead = (
        "their inputs for extra tokens are used instead of those for routed ones"
        if statistics.widened
        else "the average over the layer's other experts is used instead"
    )
    fewer = f"fewer than {statistics.manifest['profile']['min_tokens']} calibration tokens"
    return (f"layer {layer}: {fewer} reached experts {', '.join(map(str, found))}; {instead}",)
