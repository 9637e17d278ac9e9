"""Sums, extremes and sample rows of one input site, gathered batch by batch."""

import torch

from calibration.common_moments import common_moments
from sixfold.runner.process_group import Team
from sixfold.statistics.moments import pack, packed_shape

_NONE = torch.iinfo(torch.int64).max
_CHUNK = 1 << 19
"""Values that are summed together on the CPU: intermediate results stay in its cache."""
_PARTS = 8
"""Of a chunk, each summed separately: the core that computed a part also sums it, and nothing moves between cores."""


class Accumulator:
    """What sixfold.statistics.statistics stores of one site, while the batches come in.

    A site of one activation has `experts` 1; a stacked site has one row of everything per expert. Sums are float32
    within some rows of a batch and float64 over them, as those of first tokens are; second moments, where they are
    wanted, float32. Rows of the sample are those with the lowest ranks, so that which tokens are kept does not depend
    on how they were batched.
    """

    def __init__(self, experts: int, channels: int, rows: int, device: torch.device, *, moments: bool = False) -> None:
        self.count = torch.zeros(experts, dtype=torch.int64, device=device)
        self.sum_sq = torch.zeros(experts, channels, dtype=torch.float64, device=device)
        self.sum_abs = torch.zeros(experts, channels, dtype=torch.float64, device=device)
        self.abs_max = torch.zeros(experts, channels, dtype=torch.float32, device=device)
        self.sample = torch.zeros(experts, rows, channels, dtype=torch.bfloat16, device=device)
        self.ranks = torch.full((experts, rows), _NONE, dtype=torch.int64, device=device)
        self.moments = torch.zeros(experts, channels, channels, device=device) if moments else None
        self.firsts = torch.zeros(experts, dtype=torch.int64, device=device)
        self.first_count = torch.zeros(experts, dtype=torch.int64, device=device)
        self.first_sum = torch.zeros(experts, channels, dtype=torch.float64, device=device)

    def add_one(self, expert: int, rows: torch.Tensor, ranks: torch.Tensor) -> None:
        """rows [N, channels] of one expert (0 at a site of one activation); ranks int64 [N], all different."""
        if not len(rows):
            return
        self.count[expert] += len(rows)
        self._add_sums(expert, rows)
        self._add_moments(expert, rows)
        kept = self.ranks[expert]
        better = (ranks < kept.amax()).nonzero()[:, 0]
        if len(better):
            chosen = torch.cat([kept, ranks[better]]).topk(len(kept), largest=False).indices
            stays = torch.zeros(len(kept), dtype=torch.bool, device=kept.device)
            stays[chosen[chosen < len(kept)]] = True
            new, place = better[chosen[chosen >= len(kept)] - len(kept)], (~stays).nonzero()[:, 0]
            self.sample[expert, place] = rows[new].to(torch.bfloat16)
            kept[place] = ranks[new]

    def add_first(self, rows: torch.Tensor, expert_of: torch.Tensor, counted: torch.Tensor) -> None:
        """rows [N, channels], of the first tokens of windows; expert_of: int64 [N]; counted: bool [N], which of them
        are added by `add` or `add_one` as well."""
        # As a product: scattered additions have no order on a GPU.
        own = torch.zeros(len(self.firsts), len(rows), dtype=torch.float64, device=rows.device)
        own[expert_of, torch.arange(len(rows), device=rows.device)] = 1
        self.firsts += own.sum(1).long()
        self.first_count += own[:, counted].sum(1).long()
        self.first_sum += own @ rows.double()

    def add(self, rows: torch.Tensor, counts: torch.Tensor, ranks: torch.Tensor) -> None:
        """Of all experts at once. rows [N, channels], sorted by expert; counts int64 [experts], on the CPU; ranks int64
        [N], all different within an expert."""
        self.count += counts.to(self.count.device)
        start = 0
        for expert, count in enumerate(counts.tolist()):
            if count:
                self._add_sums(expert, rows[start : start + count])
                self._add_moments(expert, rows[start : start + count])
                start += count
        experts = torch.arange(len(counts), device=rows.device)
        expert_of = torch.repeat_interleave(experts, counts.to(rows.device), output_size=len(rows))
        self._keep_lowest(rows, expert_of, ranks)

    def add_sums(
        self, counts: torch.Tensor, sum_sq: torch.Tensor, sum_abs: torch.Tensor, abs_max: torch.Tensor
    ) -> None:
        """What was summed elsewhere, of all experts: counts int64 [experts], the rest float32 [experts, channels]."""
        self.count += counts
        self.sum_sq += sum_sq
        self.sum_abs += sum_abs
        torch.maximum(self.abs_max, abs_max, out=self.abs_max)

    def add_moments(self, rows: torch.Tensor, counts: torch.Tensor) -> None:
        """Of all experts at once, where they are wanted and nothing else of the rows is. rows [N, channels], sorted by
        expert; counts int64 [experts]."""
        if self.moments is not None:
            for expert, part in enumerate(rows.split(counts.tolist())):
                self._add_moments(expert, part)

    def _add_moments(self, expert: int, rows: torch.Tensor) -> None:
        if self.moments is None or not len(rows):
            return
        if rows.is_cuda and rows.dtype != torch.float32:
            self.moments[expert] += torch.mm(rows.t(), rows, out_dtype=torch.float32)
            return
        values = rows.float()
        self.moments[expert].addmm_(values.t(), values)

    def _add_sums(self, expert: int, rows: torch.Tensor) -> None:
        channels = rows.shape[1]
        for block in rows.split(max(1, _CHUNK // channels) if not rows.is_cuda else len(rows)):
            number = len(block)
            values = block.new_empty(-(-number // _PARTS) * _PARTS, channels, dtype=torch.float32)
            values[:number] = block
            values[number:] = 0
            parts = values.abs_().view(_PARTS, -1, channels)
            torch.maximum(self.abs_max[expert], parts.amax(1).amax(0), out=self.abs_max[expert])
            self.sum_abs[expert] += parts.sum(1).sum(0, dtype=torch.float64)
            self.sum_sq[expert] += parts.square_().sum(1).sum(0, dtype=torch.float64)

    def _keep_lowest(self, rows: torch.Tensor, expert_of: torch.Tensor, ranks: torch.Tensor) -> None:
        """Keep what is to be sampled of rows [N, channels]; expert_of, ranks: int64 [N]."""
        experts, size = self.ranks.shape
        better = (ranks < self.ranks.amax(1)[expert_of]).nonzero()[:, 0]
        if not len(better):
            return
        by_rank = better[ranks[better].argsort()]
        by_expert = by_rank[expert_of[by_rank].argsort(stable=True)]
        found = torch.bincount(expert_of[by_expert], minlength=experts)
        first = (found.cumsum(0) - found).repeat_interleave(found, output_size=len(by_expert))
        place = torch.arange(len(by_expert), device=ranks.device) - first
        by_expert, place = by_expert[place < size], place[place < size]
        # Only experts with something new are merged: their kept rows side by side with the newcomers.
        touched, index = torch.unique(expert_of[by_expert], return_inverse=True)
        ranked = torch.full((len(touched), 2 * size), _NONE, dtype=torch.int64, device=ranks.device)
        ranked[:, :size] = self.ranks[touched]
        ranked[index, size + place] = ranks[by_expert]
        row_of = torch.zeros((len(touched), size), dtype=torch.int64, device=ranks.device)
        row_of[index, place] = by_expert
        lowest, chosen = ranked.topk(size, dim=1, largest=False)
        old = self.sample[touched].gather(1, chosen.clamp(max=size - 1)[..., None].expand(-1, -1, self.sample.shape[2]))
        new = rows[row_of.gather(1, (chosen - size).clamp(min=0))].to(torch.bfloat16)
        self.sample[touched] = torch.where((chosen < size)[..., None], old, new)
        self.ranks[touched] = lowest

    def join(self, team: Team) -> None:
        """Make this process's sums, extremes and sample those of all processes together."""
        if team.size == 1:
            return
        team.add(self.count, self.sum_sq, self.sum_abs, self.firsts, self.first_count, self.first_sum)
        if self.moments is not None:
            team.add(self.moments)
        team.largest(self.abs_max)
        ranks, sample = torch.cat(team.gather(self.ranks), 1), torch.cat(team.gather(self.sample), 1)
        self.ranks, chosen = ranks.topk(self.ranks.shape[1], dim=1, largest=False)
        self.sample = sample.gather(1, chosen[..., None].expand(-1, -1, sample.shape[2]))

    def finish(self, stacked: bool) -> dict[str, torch.Tensor]:
        """The statistics by name, without the expert dimension unless `stacked`, where they were gathered: moments come
        off a GPU as they are written, much faster than into memory that is new."""
        order = self.ranks.argsort(1)
        real = self.ranks.gather(1, order) < _NONE
        sample = self.sample.gather(1, order[..., None].expand_as(self.sample)) * real[..., None]
        found = {
            "count": self.count,
            "sum_sq": self.sum_sq.float(),
            "sum_abs": self.sum_abs.float(),
            "abs_max": self.abs_max,
            "sample": sample,
            "sampled": real.sum(1),
        }
        if self.moments is not None:
            found["moments"] = self._packed(self.moments)
        return {k: (v if stacked else v[0]).contiguous() for k, v in found.items()}

    def _packed(self, moments: torch.Tensor) -> torch.Tensor:
        """One expert at a time into its place: side by side, all of them would stand in memory twice."""
        experts, channels, _ = moments.shape
        packed = torch.empty((experts, *packed_shape(channels)), dtype=torch.float16, device=moments.device)
        for expert, of_expert in enumerate(moments):
            packed[expert] = pack(of_expert)
        return packed

    def first(self, stacked: bool) -> dict[str, torch.Tensor]:
        """What first tokens read, by name, as from `finish`; {} without second moments, which it is for."""
        if self.moments is None:
            return {}
        mean = (self.first_sum / self.firsts.clamp(min=1)[:, None]).float()
        found = {"first": mean, "first_count": self.first_count}
        return {name: value if stacked else value[0] for name, value in found.items()}

    def common(self) -> dict[str, torch.Tensor]:
        """What the experts of a stacked site have in common, by name; {} without second moments."""
        return {} if self.moments is None else common_moments(self.moments, self.count)
