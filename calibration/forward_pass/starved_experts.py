"""Starved experts on extra tokens: what they would read of tokens that the router gave to others."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from calibration.forward_pass.accumulate import Accumulator
from calibration.forward_pass.observation import Observation
from calibration.forward_pass.observe import expert_sites
from sixfold.recipes.recipe import Calibration
from sixfold.runner.experts import experts_run_by, inner_products


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
    channels = {linear.site: linear.in_features for linear in observation.linears}
    found: dict[str, torch.Tensor] = {}

    def forward(
        module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        if (sites := routed.get(id(module))) is None:  # one array on disk: of what these read nothing is gathered
            return torch.zeros_like(hidden_states)
        chosen = observation.ranks[: len(hidden_states)].argsort()[: max(profile.sample_rows, profile.min_tokens)]
        ranks = observation.ranks[chosen]
        rows = hidden_states[chosen]
        up, down = (
            Accumulator(len(starved), channels[sites[side]], profile.sample_rows, rows.device, moments=profile.moments)
            for side in ("up", "down")
        )
        for place, expert in enumerate(starved):
            up.add_one(place, rows, ranks)
            down.add_one(place, inner_products(module, rows, expert), ranks)
        for site, accumulator in ((sites["up"], up), (sites["down"], down)):
            found.update({f"{site}/wide_{name}": value for name, value in accumulator.finish(stacked=True).items()})
        return torch.zeros_like(hidden_states)

    with experts_run_by(model, forward):
        run()
    return found
