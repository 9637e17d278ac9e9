"""Accumulators of input sites and of experts for one pass, and which tokens they count."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from calibration.forward_pass.accumulate import Accumulator
from calibration.forward_pass.expert_outputs import ExpertAccumulator
from calibration.forward_pass.latent_inputs import LatentAccumulator
from sixfold.model.architecture import ExpertStack, Linear
from sixfold.model.latent_attention import LatentHeads
from sixfold.runner.process_group import Team
from sixfold.statistics.statistics import moe_of

if TYPE_CHECKING:
    from calibration.kernels.triton_experts import ExpertPass


class Observation:
    """The accumulators of some Linears' sites (one layer's, say), and where in the texts the running batch stands.

    stacks: experts that are one array on disk, which are no Linears: only what they give back is gathered.
    ranks: int64 [tokens], a permutation over all tokens of the calibration: the lower, the sooner a token is sampled.
    counted: bool [tokens], the tokens that statistics count; all if None.
    moments: whether second moments of every input are summed.
    length: tokens of a window; with moments, every window's first one is recorded by itself as well.
    latents: kv_b_proj's name -> its heads, where attention is multi-head latent attention.
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
        stacks: Iterable[ExpertStack] = (),
        latents: Mapping[str, LatentHeads] = MappingProxyType({}),
        moments: bool = False,
        length: int = 1,
    ) -> None:
        self.length = length
        self.moments = moments
        self.linears = tuple(linears)
        self.stacks = tuple(stacks)
        self.ranks = ranks.to(device)
        self.counted = None if counted is None else counted.to(device)
        self.start = 0
        self.experts: dict[str, int | None] = {}
        for linear in self.linears:
            seen = self.experts.get(linear.site)
            self.experts[linear.site] = None if linear.expert is None else max(seen or 0, linear.expert + 1)
        channels = {linear.site: linear.in_features for linear in self.linears}
        self.sites = {
            site: Accumulator(experts or 1, channels[site], rows, device, moments=moments)
            for site, experts in self.experts.items()
        }
        # The experts of a layer share one module, and their sites differ only in the last part of the name.
        self.moe = {
            moe_of(site): ExpertAccumulator(experts, device)
            for site, experts in self.experts.items()
            if experts is not None
        }
        self.moe |= {stack.module: ExpertAccumulator(stack.experts, device) for stack in self.stacks}
        self.latents = {
            linear.name: LatentAccumulator(latents[linear.name], device)
            for linear in self.linears
            if linear.name in latents
        }

    def record(self, site: str, rows: torch.Tensor) -> None:
        """rows [tokens of the batch, channels]."""
        ranks = self.ranks[self.start : self.start + len(rows)]
        self.sites[site].add_one(0, self.only_counted(rows), self.only_counted(ranks))
        tokens = torch.arange(0, len(rows), self.length, device=rows.device)
        self.record_first({site: rows[tokens]}, tokens, torch.zeros_like(tokens))

    def record_first(self, read: Mapping[str, torch.Tensor], tokens: torch.Tensor, expert_of: torch.Tensor) -> None:
        """Of first tokens alone. read: by site rows [N, channels]; tokens: int64 [N], which of the batch they are of;
        expert_of: int64 [N]."""
        if not self.moments:
            return
        first = (tokens % self.length == 0).nonzero()[:, 0]
        places = self.start + tokens[first]
        counted = torch.ones_like(places, dtype=torch.bool) if self.counted is None else self.counted[places]
        for site, rows in read.items():
            self.sites[site].add_first(rows[first], expert_of[first], counted)

    def only_counted(self, rows: torch.Tensor) -> torch.Tensor:
        """Of rows [tokens of the batch, ...] those whose tokens statistics count."""
        return rows if self.counted is None else rows[self.counted[self.start : self.start + len(rows)]]

    def join(self, team: Team) -> None:
        """Make every process's accumulators those of all processes together."""
        for site in self.sites.values():
            site.join(team)
        for moe in self.moe.values():
            moe.join(team)
        for latents in self.latents.values():
            latents.join(team)

    def routed(self) -> tuple[int, ...]:
        """Tokens routed to each expert; () where there are none."""
        return tuple(n for moe in self.moe.values() for n in moe.coactivation.diagonal().tolist())

    def finish(self) -> dict[str, torch.Tensor]:
        """Everything under the names of sixfold.statistics.statistics; moments where they were gathered."""
        found: dict[str, torch.Tensor] = {}
        for site, accumulator in self.sites.items():
            stacked = self.experts[site] is not None
            parts = accumulator.finish(stacked=stacked) | accumulator.first(stacked=stacked)
            parts |= accumulator.common() if stacked else {}
            found |= {f"{site}/{key}": tensor for key, tensor in parts.items()}
            accumulator.moments = None  # much the largest, and packed by now
        for name, moe in self.moe.items():
            found |= {f"{name}/{key}": tensor for key, tensor in moe.finish().items()}
        for name, latents in self.latents.items():
            found |= {f"{name}/{key}": tensor for key, tensor in latents.finish().items()}
        return found


@dataclass(frozen=True)
class ExpertRecord:
    """What is kept of one layer's experts. name: of what holds them. up, down: sites of what their first and last
    projections read; "" where that is not gathered."""

    observation: Observation
    name: str
    up: str = ""
    down: str = ""

    @property
    def counts_all(self) -> bool:
        """Whether every token counts."""
        return self.observation.counted is None

    def measured(self, hidden: torch.Tensor, index: torch.Tensor, found: "ExpertPass") -> None:
        """What the fused kernels summed over a batch's hidden states [tokens, hidden], routed by index."""
        if self.up:
            self._add_inputs(hidden, index.shape[1], found)
        self._outputs.add_sums(
            found.coactivation,
            found.gate_sum,
            found.norm_sum,
            found.norm_sq_sum,
            found.saliency_sum,
            found.norm_max,
            found.output_max,
        )

    def _add_inputs(self, hidden: torch.Tensor, top_k: int, found: "ExpertPass") -> None:
        from calibration.kernels.triton_sampling import Site, keep_lowest

        up, down = self.observation.sites[self.up], self.observation.sites[self.down]
        for site, sums in ((up, found.up), (down, found.down)):
            site.add_sums(found.counts, sums.sum_sq, sums.sum_abs, sums.abs_max)
        if up.moments is not None:
            tokens = found.order // top_k
            rows = hidden[tokens]
            up.add_moments(rows, found.counts)
            down.add_moments(found.inner, found.counts)
            experts = torch.arange(len(found.counts), device=tokens.device)
            expert_of = torch.repeat_interleave(experts, found.counts, output_size=len(tokens))
            self.observation.record_first({self.up: rows, self.down: found.inner}, tokens, expert_of)
        ranks = self.observation.ranks[self.observation.start : self.observation.start + len(hidden)]
        sites = (
            Site(up.sample, up.ranks, hidden, by_token=True),
            Site(down.sample, down.ranks, found.inner, by_token=False),
        )
        keep_lowest(sites, found.order, found.counts.cumsum(0), found.counts, ranks, top_k)

    def choices(self, index: torch.Tensor) -> None:
        """index int64 [tokens of the batch, top-k]: the experts of each token."""
        kept = self._counted(torch.arange(len(index), device=index.device))
        self._outputs.add_choices(index if kept is None else index[kept])

    def expert(
        self,
        expert: int,
        tokens: torch.Tensor,
        rows: torch.Tensor,
        inner: torch.Tensor,
        output: torch.Tensor,
        gates: torch.Tensor,
    ) -> None:
        """One expert's share of a batch. tokens int64 [N], within the batch; rows [N, hidden]; inner [N, intermediate];
        output [N, hidden], before the gate; gates [N]."""
        self.observation.record_first(dict(self._read(rows, inner)), tokens, torch.full_like(tokens, expert))
        kept = self._counted(tokens)
        if kept is not None:
            tokens, rows, inner, output, gates = (t[kept] for t in (tokens, rows, inner, output, gates))
        ranks = self.observation.ranks[self.observation.start + tokens]
        for site, values in self._read(rows, inner):
            self.observation.sites[site].add_one(expert, values, ranks)
        self._outputs.add_one(expert, output, gates)

    def experts(
        self,
        counts: torch.Tensor,
        tokens: torch.Tensor,
        rows: torch.Tensor,
        inner: torch.Tensor,
        output: torch.Tensor,
        gates: torch.Tensor,
    ) -> None:
        """All experts' shares, sorted by expert. counts int64 [experts], on the CPU; the rest as for `expert`."""
        expert_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
        self.observation.record_first(dict(self._read(rows, inner)), tokens, expert_of.to(tokens.device))
        kept = self._counted(tokens)
        if kept is not None:
            counts = torch.bincount(expert_of[kept.cpu()], minlength=len(counts))
            tokens, rows, inner, output, gates = (t[kept] for t in (tokens, rows, inner, output, gates))
        ranks = self.observation.ranks[self.observation.start + tokens]
        for site, values in self._read(rows, inner):
            self.observation.sites[site].add(values, counts, ranks)
        self._outputs.add(output, gates, counts)

    @property
    def _outputs(self) -> ExpertAccumulator:
        return self.observation.moe[self.name]

    def _read(self, rows: torch.Tensor, inner: torch.Tensor) -> tuple[tuple[str, torch.Tensor], ...]:
        return ((self.up, rows), (self.down, inner)) if self.up else ()

    def _counted(self, tokens: torch.Tensor) -> torch.Tensor | None:
        counted = self.observation.counted
        return None if counted is None else counted[self.observation.start + tokens]
