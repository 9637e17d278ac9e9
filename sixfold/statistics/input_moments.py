"""What is known of each Linear's input: its second moments, made whole where few tokens were seen.

Where an expert saw few tokens, most of what makes its moments differ from what the layer's experts have in common is
chance (calibration.common_moments says how much): that share of them is replaced by the common ones, and damping grows
with it, tenfold at most. Many tokens leave an expert's moments as they are, none leave the common ones. An expert that
the profile calls starved has the common ones alone, or its moments on extra tokens, as the profile says.

On 16 experts of a trained model, moments of as many tokens as an expert has channels, taken alone, make rounding worse
than nearest (twice the error of the last projections); mixed so they never did.
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import torch

from sixfold.statistics.expert_sums import ExpertSums, expert_sums
from sixfold.statistics.moments import share_of_chance
from sixfold.statistics.statistics import Statistics

DAMPING = 0.03
"""Of the mean of the diagonal, added to the diagonal before anything is divided by moments. GPTQ takes a hundredth; on
moments of held-out text, own and foreign, three do a little better in every format."""

_MORE = 9.0
"""How much damping grows, as a multiple of itself, where all that is known is what experts have in common."""

_SITES = 3
"""Stacked sites whose sums are held on a GPU: those of a layer, and the next one's first."""

FIRST = 0.05
"""What the first token of a text weighs beside all others, and the share of their power that it has at most. Trained
models rest most of every later token's attention on it (the sink of arXiv 2309.17453), and what its projections read
is like nothing that other tokens read: as one of a window's many tokens, an error there would cost the sums next to
nothing, and every token its attention. Where it carries a massive activation (arXiv 2402.17762), hundreds of times the
power of all others, it would be all that the sums know."""


@dataclass(frozen=True)
class Moments:
    """mean: of x x^T, float32 [C, C]. chance: the share of it that is of the layer's experts and not of its own."""

    mean: torch.Tensor
    chance: float = 0.0

    @property
    def damping(self) -> float:
        return DAMPING * (1 + _MORE * self.chance)

    @property
    def damped(self) -> torch.Tensor:
        """float32 [C, C], with damping on the diagonal."""
        found = self.mean.clone()
        found.diagonal().add_(self.damping * found.diagonal().mean())
        return found


class InputMoments:
    """Of the inputs of one calibration. device: that moments are put on."""

    def __init__(self, statistics: Statistics, device: torch.device) -> None:
        self.statistics = statistics
        self.device = device
        self._common = lru_cache(2)(self._read_common)
        self._sums = lru_cache(_SITES)(self._read_sums)
        self._reading = Lock()

    def of(self, linear: str) -> Moments | None:
        """linear: on-disk name. None where the calibration saw nothing of what it reads, nor of what its layer's other
        experts do."""
        return self.of_place(*self.statistics.place_of(linear)) if self.statistics.has(linear) else None

    def of_place(self, site: str, expert: int | None) -> Moments | None:
        if expert is None:
            count = int(self.statistics.site(site, ["count"])["count"])
            return self._plain(site, count) if count else None
        common = self._common(site)
        if common is None:
            return None
        starved = self.statistics.starved_of(site)
        if expert not in starved:
            return self._mixed(site, expert, "", common)
        return self._mixed(site, starved.index(expert), "wide_", common) if self.statistics.widened else _only(common)

    def _plain(self, site: str, count: int) -> Moments:
        first, firsts = self.statistics.first(site)
        mean = self.statistics.moments(site, device=self.device) / count
        return Moments(_reweighed(mean, first, firsts / count, FIRST))

    def _mixed(self, site: str, row: int, prefix: str, common: torch.Tensor) -> Moments:
        with self._reading:  # once, for all that ask at the same time
            sums = self._sums(site, prefix)
        count = sums.count(row)
        if not count:
            return _only(common)
        mean = sums.products(row) / count
        if not prefix:  # extra tokens have none by itself
            first, firsts = sums.first(row)
            mean = _reweighed(mean, first, firsts / count, min(firsts / count, FIRST))
        chance = share_of_chance(mean, common, count)
        return Moments(torch.lerp(mean, common, chance), chance)

    def _read_sums(self, site: str, prefix: str) -> ExpertSums:
        return expert_sums(self.statistics, site, prefix, self.device)

    def _read_common(self, site: str) -> torch.Tensor | None:
        count = int(self.statistics.site(site, ["count"])["count"].sum())
        return self.statistics.common_moments(site, self.device) / count if count else None


def _reweighed(mean: torch.Tensor, first: torch.Tensor, share: float, weight: float) -> torch.Tensor:
    """mean: float32 [C, C], changed in place. first: float32 [C], what first tokens read, which are that share of the
    tokens of the mean. They get the weight instead, held to FIRST of all others' power."""
    first = first.to(mean.device)
    power = float(first.square().sum())
    if not power:
        return mean
    others = max(0.0, float(mean.trace()) - share * power)
    return mean.addr_(first, first, alpha=min(weight, FIRST * others / power) - share)


def _only(common: torch.Tensor) -> Moments:
    return Moments(common, 1.0)
