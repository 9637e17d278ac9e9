"""The inputs of a checkpoint's Linears, as rounding needs them: their second moments, factors and sample rows."""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import torch

from exporters.rounding.factor import Factor, factor
from sixfold.statistics.input_moments import InputMoments, Moments
from sixfold.statistics.starved_experts import stand_in
from sixfold.statistics.statistics import Statistics

_FACTORS = 6
"""Kept at least: those of the experts that are being rounded."""
_HELD = 256 << 20
"""Bytes of factors kept on the processor, an eighth of the memory on a GPU: of a small model all, for the formats to
come; of a large one those of a layer's inputs that several of its Linears read."""


class Inputs:
    """By the on-disk name of a Linear that reads them. Moments and factors are None where the calibration saw nothing
    of an input, nor of the other experts' of its layer."""

    def __init__(self, statistics: Statistics, device: torch.device) -> None:
        self.device = device
        self._statistics = statistics
        self._moments = InputMoments(statistics, device)
        self._factors = lru_cache(max(_FACTORS, _held(device) // self._largest()))(self._make_factor)
        self._making: dict[tuple[str, int | None], Lock] = {}
        self._rows = lru_cache(2)(self._rows_of_layer)

    def moments(self, linear: str) -> Moments | None:
        return self._moments.of(linear)

    def factor(self, linear: str) -> Factor | None:
        if not self._statistics.has(linear):
            return None
        place = self._statistics.place_of(linear)
        with self._making.setdefault(place, Lock()):  # formats that ask at the same time wait for one and the same
            return self._factors(*place)

    def sample(self, linear: str) -> torch.Tensor:
        """Rows of the input, [S, C], as they came: of the layer's other experts' where too few tokens were seen.

        What stands in for their sums (sixfold.statistics.starved_experts) has one channel a row, larger than any that
        came, which says nothing of how rows are rounded.
        """
        site, expert = self._statistics.place_of(linear)
        if expert not in self._statistics.starved_of(site):
            return self._statistics.of_linear(linear).sample
        instead = stand_in(self._statistics, linear) if self._statistics.widened else None
        return instead.sample if instead is not None and len(instead.sample) else self._rows(site)

    def one(self, linears: Sequence[str]) -> bool:
        """Whether all of them read one input, of which something is known."""
        known = self._statistics.has
        return all(map(known, linears)) and len({self._statistics.place_of(name) for name in linears}) == 1

    def _largest(self) -> int:
        """Bytes of the largest factor."""
        channels = [self._statistics.shape_of(site)[1] for site in self._statistics.manifest["sites"]]
        return 2 * 4 * max(channels, default=1) ** 2

    def _make_factor(self, site: str, expert: int | None) -> Factor | None:
        moments = self._moments.of_place(site, expert)
        return None if moments is None else factor(moments.mean[None], moments.damping)

    def _rows_of_layer(self, site: str) -> torch.Tensor:
        """As many as of one expert, from all that saw any, the same number of each: [S, C]."""
        found = self._statistics.site(site, ["sample", "sampled"])
        seen = [rows[: int(number)] for rows, number in zip(found["sample"], found["sampled"], strict=True) if number]
        each = max(1, found["sample"].shape[1] // max(1, len(seen)))
        return torch.cat([rows[:each] for rows in seen])


def _held(device: torch.device) -> int:
    return _HELD if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory // 8
