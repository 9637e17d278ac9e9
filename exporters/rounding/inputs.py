"""What is known of each Linear's input: its second moments, made whole where few tokens were seen, and their factor.

Where an expert saw few tokens, most of what makes its moments differ from what the layer's experts have in common is
chance (calibration.common_moments says how much): that share of them is replaced by the common ones, and damping grows
with it, tenfold at most. Many tokens leave an expert's moments as they are, none leave the common ones. An expert that
the profile calls starved has the common ones alone, or its moments on extra tokens, as the profile says.

On 16 experts of a trained model, moments of as many tokens as an expert has channels, taken alone, make rounding worse
than nearest (twice the error of the last projections); mixed so they never did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from exporters.rounding.factor import DAMPING, Factor, factor
from sixfold.moments import share_of_chance
from sixfold.statistics.starved_experts import stand_in
from sixfold.statistics.statistics import Statistics

_FACTORS = 6
"""Kept: those of the experts that are being rounded."""

_MORE = 9.0
"""How much damping grows, as a multiple of itself, where all that is known is what experts have in common."""


@dataclass(frozen=True)
class Moments:
    """mean: of x x^T, float32 [C, C]. chance: share of it that is of the layer's experts and not of its own."""

    mean: torch.Tensor
    chance: float = 0.0

    @property
    def damping(self) -> float:
        return DAMPING * (1 + _MORE * self.chance)

    def factor(self, columns: torch.Tensor | None = None) -> Factor:
        """float32 [1, C, C]; of the input divided by `columns`, float32 [C]."""
        if columns is None:
            return factor(self.mean[None], self.damping)
        inverse = columns.to(self.mean.device).reciprocal()
        return factor((self.mean * inverse[:, None] * inverse)[None], self.damping)


class Inputs:
    """Moments and factors of the inputs of one calibration, by the on-disk name of a Linear that reads them.

    Both are None where the calibration saw nothing of an input, nor of the other experts' of its layer.
    """

    def __init__(self, statistics: Statistics, device: torch.device) -> None:
        self.statistics = statistics
        self.device = device
        self._common = lru_cache(2)(self._read_common)
        self._factors = lru_cache(_FACTORS)(self._make_factor)

    def moments(self, linear: str) -> Moments | None:
        if not self.statistics.has(linear):
            return None
        return self._moments(*self.statistics.place_of(linear))

    def factor(self, linear: str) -> Factor | None:
        if not self.statistics.has(linear):
            return None
        return self._factors(*self.statistics.place_of(linear))

    def sample(self, linear: str) -> torch.Tensor:
        """Rows of the input, [S, C]; of what stands in where too few tokens were seen."""
        instead = stand_in(self.statistics, linear)
        return (self.statistics.of_linear(linear) if instead is None else instead).sample

    def one(self, linears: Sequence[str]) -> bool:
        """Whether all of them read one input, of which something is known."""
        known = self.statistics.has
        return all(map(known, linears)) and len({self.statistics.place_of(name) for name in linears}) == 1

    def _make_factor(self, site: str, expert: int | None) -> Factor | None:
        moments = self._moments(site, expert)
        return None if moments is None else moments.factor()

    def _moments(self, site: str, expert: int | None) -> Moments | None:
        if expert is None:
            count = int(self.statistics.site(site, ["count"])["count"])
            return Moments(self.statistics.moments(site).to(self.device) / count) if count else None
        common = self._common(site)
        if common is None:
            return None
        found = self.statistics.site(site, ["count", "moments_chance"])
        count, chance = int(found["count"][expert]), float(found["moments_chance"][expert])
        starved = self.statistics.starved_of(site)
        if expert in starved:
            if not self.statistics.widened:
                return Moments(common, 1.0)
            place = starved.index(expert)
            count = int(self.statistics.site(site, ["wide_count"])["wide_count"][place])
            mean = self.statistics.moments(site, [place], "wide_")[0].to(self.device) / max(count, 1)
            chance = share_of_chance(mean, common, count)
        elif not count:
            return Moments(common, 1.0)
        else:
            mean = self.statistics.moments(site, [expert])[0].to(self.device) / count
        return Moments(torch.lerp(mean, common, chance), chance)

    def _read_common(self, site: str) -> torch.Tensor | None:
        count = int(self.statistics.site(site, ["count"])["count"].sum())
        return self.statistics.common_moments(site).to(self.device) / count if count else None
