"""Watching what each Linear and each expert reads while transformers runs its own forward.

Experts are watched through transformers' experts interface: one function serves every family that has it, with the
top-k indices and gate weights that the family's own router computed. Every other Linear is watched by a hook on the
first module of its input site; what several Linears read is counted once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from calibration.accumulate import Accumulator
from calibration.expert_outputs import ExpertAccumulator
from calibration.expert_products import inner_products, outer_products
from sixfold.architecture import Linear
from sixfold.statistics import moe_of
from sixfold.team import Team

EXPERTS_FUNCTION = "sixfold_observe"


class Observation:
    """The accumulators of some Linears' sites (one layer's, say), and where in the texts the running batch stands.

    ranks: int64 [tokens], a permutation over all tokens of the calibration: the lower, the sooner a token is sampled.
    counted: bool [tokens], the tokens that statistics count; all if None.
    start: position of the running batch's first token; whoever runs the batches sets it.
    """

    def __init__(
        self,
        linears: Iterable[Linear],
        *,
        ranks: torch.Tensor,
        rows: int,
        device: torch.device,
        counted: torch.Tensor | None = None,
    ) -> None:
        self.linears = tuple(linears)
        self.ranks = ranks.to(device)
        self.counted = None if counted is None else counted.to(device)
        self.start = 0
        self.experts: dict[str, int | None] = {}
        for linear in self.linears:
            seen = self.experts.get(linear.site)
            self.experts[linear.site] = None if linear.expert is None else max(seen or 0, linear.expert + 1)
        channels = {linear.site: linear.in_features for linear in self.linears}
        self.sites = {
            site: Accumulator(experts or 1, channels[site], rows, device) for site, experts in self.experts.items()
        }
        # The experts of a layer share one module, and their sites differ only in the last part of the name.
        self.moe = {
            moe_of(site): ExpertAccumulator(experts, device)
            for site, experts in self.experts.items()
            if experts is not None
        }

    def record(self, site: str, rows: torch.Tensor, counts: torch.Tensor, tokens: torch.Tensor) -> None:
        """rows [N, channels] sorted by expert; counts int64 [experts], on the CPU; tokens [N], each row's token within
        the batch."""
        kept, counts = self._kept(counts, tokens)
        if kept is not None:
            rows, tokens = rows[kept], tokens[kept]
        self.sites[site].add(rows, counts, self.ranks[self.start + tokens])

    def record_outputs(
        self,
        name: str,
        output: torch.Tensor,
        gates: torch.Tensor,
        counts: torch.Tensor,
        tokens: torch.Tensor,
        index: torch.Tensor,
    ) -> None:
        """Of the experts in `name`: output [N, hidden] before the gate, gates [N]; index [tokens of the batch, top-k]:
        the experts of each token."""
        kept, counts = self._kept(counts, tokens)
        if kept is not None and self.counted is not None:
            output, gates = output[kept], gates[kept]
            index = index[self.counted[self.start : self.start + len(index)]]
        self.moe[name].add_outputs(output, gates, counts)
        self.moe[name].add_choices(index)

    def _kept(self, counts: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Which rows are counted (None: all), and how many of each expert's."""
        if self.counted is None:
            return None, counts
        kept = self.counted[self.start + tokens]
        expert_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
        return kept, torch.bincount(expert_of[kept.cpu()], minlength=len(counts))

    def join(self, team: Team) -> None:
        """Make every process's accumulators those of all processes together."""
        for site in self.sites.values():
            site.join(team)
        for moe in self.moe.values():
            moe.join(team)

    def routed(self) -> tuple[int, ...]:
        """Tokens routed to each expert; () where there are none."""
        return tuple(n for moe in self.moe.values() for n in moe.coactivation.diagonal().tolist())

    def finish(self) -> dict[str, torch.Tensor]:
        """Everything under the names of sixfold.statistics, on the CPU."""
        found: dict[str, torch.Tensor] = {}
        for site, accumulator in self.sites.items():
            stacked = self.experts[site] is not None
            found |= {f"{site}/{key}": tensor for key, tensor in accumulator.finish(stacked=stacked).items()}
        for name, moe in self.moe.items():
            found |= {f"{name}/{key}": tensor for key, tensor in moe.finish().items()}
        return found


@contextmanager
def observed(model: Any, observation: Observation) -> Iterator[None]:
    """While open, every forward of `model` (a transformers model, or the part of it that is run) is recorded."""
    modules = dict(model.named_modules())
    plain: dict[str, str] = {}
    for linear in observation.linears:
        if linear.expert is None:
            plain.setdefault(linear.site, linear.module)
    routed = expert_sites(modules, observation.linears)

    def experts_forward(
        module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        sites = routed.get(id(module), {})
        return _routed_forward(module, hidden_states, top_k_index, top_k_weights, observation, sites)

    handles = [
        modules[module].register_forward_pre_hook(_input_hook(observation, site), with_kwargs=True)
        for site, module in plain.items()
    ]
    try:
        with experts_run_by(model, experts_forward) if routed else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()


def expert_sites(modules: Mapping[str, nn.Module], linears: Iterable[Linear]) -> dict[int, dict[str, str]]:
    """id of each experts module -> {"up", "down": the site of what its first and its last projections read}."""
    found: dict[int, dict[str, str]] = {}
    for linear in linears:
        if linear.expert is not None:
            side = "down" if linear.part == "down" else "up"
            found.setdefault(id(modules[linear.module]), {})[side] = linear.site
    return found


@contextmanager
def experts_run_by(model: Any, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """While open, `forward(module, hidden_states, top_k_index, top_k_weights)` computes every layer's experts."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    before = getattr(model.config, "_experts_implementation", None)
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS_FUNCTION, forward)
    model.set_experts_implementation(EXPERTS_FUNCTION)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def _input_hook(observation: Observation, site: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        rows = given.reshape(-1, given.shape[-1])
        observation.record(site, rows, torch.tensor([len(rows)]), torch.arange(len(rows), device=rows.device))

    return hook


def _routed_forward(
    module: Any,
    hidden: torch.Tensor,
    index: torch.Tensor,
    weights: torch.Tensor,
    observation: Observation,
    sites: dict[str, str],
) -> torch.Tensor:
    """The experts' output [tokens, hidden]: each token through its top-k experts only.

    hidden [tokens, hidden]; index int64 [tokens, top-k]; weights [tokens, top-k]: the gate values actually applied.
    """
    top_k = index.shape[-1]
    expert_of, order = torch.sort(index.reshape(-1), stable=True)
    tokens = order // top_k
    counts = torch.bincount(expert_of, minlength=module.num_experts).cpu()

    rows = hidden[tokens]
    if "up" in sites:
        observation.record(sites["up"], rows, counts, tokens)
    inner = inner_products(module, rows, expert_of, counts)
    if "down" in sites:
        observation.record(sites["down"], inner, counts, tokens)
    out = outer_products(module, inner, expert_of, counts)
    gates = weights.reshape(-1)[order]
    if "down" in sites:
        observation.record_outputs(moe_of(sites["down"]), out, gates, counts, tokens, index)
    out = out * gates[:, None]
    by_token = torch.empty_like(out)
    by_token[order] = out
    return by_token.view(len(hidden), top_k, -1).sum(1).to(hidden.dtype)
