"""FP8 (E4M3) with one scale a row."""

from dataclasses import dataclass
from math import gcd

import torch

from exporters.rounding.floats import to_mantissa_
from exporters.rounding.format import Levels

_LARGEST = 448.0
_SMALLEST = 2.0**-6
_TRIED = 24
"""Scales between the largest weight's and twice that: a floating-point format is as fine at either end, and what
differs is where its steps fall."""
_TOGETHER = 16


@dataclass(frozen=True)
class Fp8:
    """dtype: that scales are stored in. group: columns that are rounded together. The one parameter is the row's scale,
    the same in every group."""

    dtype: torch.dtype
    group: int
    span: None = None

    @classmethod
    def of(cls, dtype: torch.dtype, columns: int) -> "Fp8":
        return cls(dtype, gcd(columns, _TOGETHER))

    @property
    def levels(self) -> Levels:
        return Levels("floats", -_LARGEST, _LARGEST, bits=3, smallest=_SMALLEST)

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
        """The scale of the least weighted error of the whole row: [1, B, R]."""
        smallest = left.abs().amax(1) / _LARGEST
        best, least = torch.zeros_like(smallest), torch.full_like(smallest, torch.inf)
        for step in range(_TRIED):
            scale = self._scale(smallest, step)
            off = self.nearest(left, self.ready(scale[None, :, None]), torch.empty_like(left)).sub_(left)
            error = (off.square_() * importance[..., None]).sum(1)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return best[None]

    def scales(self, largest: torch.Tensor) -> torch.Tensor:
        """Those that `open` tries for rows whose largest weights have these sizes: [B, R] -> [B, K, R]."""
        return torch.stack([self._scale(largest / _LARGEST, step) for step in range(_TRIED)], 1)

    def _scale(self, smallest: torch.Tensor, step: int) -> torch.Tensor:
        scale = (smallest * 2 ** (step / _TRIED)).to(self.dtype).float()
        return torch.where(scale == 0, torch.finfo(self.dtype).eps, scale)

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        assert shared is not None  # from `open`
        return shared[:, :, None]

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        return held[:, :, None]

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return parameters[0].reciprocal(), parameters[0]

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        inverse, scale = ready
        return to_mantissa_(torch.mul(values, inverse, out=out).clamp_(-_LARGEST, _LARGEST), 3, _SMALLEST).mul_(scale)
