"""MXFP4: E2M1 in groups of 32, at powers of two."""

from dataclasses import dataclass

import torch

from exporters.rounding.format import Levels
from exporters.rounding.nvfp4 import e2m1_

GROUP = 32
_LARGEST = 6.0
_LEAST, _MOST, _BIAS = -126, 124, 127
"""Exponents that are tried: float32 holds such numbers, six times them and their reciprocals; and float32's bias."""
FIRST = (-1, 0)
"""Powers from the smallest scale that clips nothing."""
AROUND = (-1, 0, 1)


@dataclass(frozen=True)
class Mxfp4:
    """A group's one parameter is its scale."""

    group: int = GROUP
    span: None = None

    @property
    def levels(self) -> Levels:
        return Levels("floats", -_LARGEST, _LARGEST, bits=1)

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> None:
        return None

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        whole = (left.abs().amax(1) / _LARGEST).clamp(min=2.0**_LEAST)
        mantissa, exponent = torch.frexp(whole)  # whole = mantissa * 2^exponent, mantissa from 1/2 to below 1
        return _powers(torch.where(mantissa > 0.5, exponent, exponent - 1), FIRST)

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        return _powers(torch.frexp(held[0])[1] - 1, AROUND)

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return parameters[0].reciprocal(), parameters[0]

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        inverse, scale = ready
        return e2m1_(torch.mul(values, inverse, out=out)).mul_(scale)


def _powers(exponent: torch.Tensor, offsets: tuple[int, ...]) -> torch.Tensor:
    """[B, R] -> [1, B, K, R]: two to the exponent and so many more."""
    each = exponent[:, None] + torch.tensor(offsets, dtype=torch.int32, device=exponent.device)[:, None]
    return (each.clamp(_LEAST, _MOST) + _BIAS << 23).view(torch.float32)[None]
