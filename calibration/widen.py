"""Starved experts on extra tokens: what they would read of tokens that the router gave to others."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from calibration.accumulate import Accumulator
from calibration.expert_products import inner_products
from calibration.observe import Observation, expert_sites, experts_run_by
from sixfold.recipe import Calibration


def widened(
    model: Any,
    observation: Observation,
    starved: Sequence[int],
    profile: Calibration,
    run: Callable[[], object],
) -> dict[str, torch.Tensor]:
    """`<site>/wide_<statistic>` with a row for each starved expert, over the tokens of lowest rank in the first batch:
    as many as the profile samples rows, or its min_tokens if those are more.

    observation: of the layer that is in place, finished. run: runs the first batch through that layer.
    """
    routed = expert_sites(dict(model.named_modules()), observation.linears)
    found: dict[str, torch.Tensor] = {}

    def forward(
        module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        ranks = observation.ranks[: len(hidden_states)]
        chosen = ranks.argsort()[: max(profile.sample_rows, profile.min_tokens)]
        counts = torch.zeros(module.num_experts, dtype=torch.int64)
        counts[list(starved)] = len(chosen)
        expert_of = torch.repeat_interleave(torch.arange(len(counts)), counts).to(hidden_states.device)
        rows = hidden_states[chosen].repeat(len(starved), 1)
        sites = routed[id(module)]
        inner = inner_products(module, rows, expert_of, counts)
        for site, values in ((sites["up"], rows), (sites["down"], inner)):
            accumulator = Accumulator(len(starved), values.shape[1], profile.sample_rows, rows.device)
            accumulator.add(values, counts[list(starved)], ranks[chosen].repeat(len(starved)))
            found.update({f"{site}/wide_{name}": value for name, value in accumulator.finish(stacked=True).items()})
        return torch.zeros_like(hidden_states)

    with experts_run_by(model, forward):
        run()
    return found
