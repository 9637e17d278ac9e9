"""Unsigned integers with a scale and a zero point a group."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from exporters.rounding.format import Levels

ENDS = (
    (1.0, 1.0), (0.95, 0.95), (0.9, 0.9), (0.85, 0.85), (0.8, 0.8), (0.75, 0.75),
    (1.0, 0.9), (0.9, 1.0), (0.95, 0.8), (0.8, 0.95), (0.85, 0.7), (0.7, 0.85),
)  # fmt: skip
"""The smallest and the largest weight that the levels reach to, as parts of those of the group."""
NUDGE = 1.03


@dataclass(frozen=True)
class Stored:
    """Rounds scales to what files hold: to each of `dtypes` in turn, none below `least`."""

    dtypes: tuple[torch.dtype, ...]
    least: float = 0.0

    def __call__(self, scale: torch.Tensor) -> torch.Tensor:
        scale = scale.clamp(min=self.least)
        for dtype in self.dtypes:
            scale = scale.to(dtype)
        return scale.float()


@dataclass(frozen=True)
class Integers:
    """largest: the largest code. stored: rounds scales to what files hold; kernels know `Stored` alone. Parameters: the
    scale and the zero point."""

    largest: int
    stored: Callable[[torch.Tensor], torch.Tensor]
    group: int
    span: None = None

    @property
    def levels(self) -> Levels:
        return Levels("zero", 0, self.largest)

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> None:
        return None

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        ends = torch.tensor(ENDS, device=left.device)[..., None]
        low = left.amin(1).clamp(max=0)[:, None] * ends[:, 0]
        high = left.amax(1).clamp(min=0)[:, None] * ends[:, 1]
        scale = self.stored((high - low) / self.largest)
        return torch.stack([scale, (low / -scale).round_().clamp_(0, self.largest)])

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        """As held; fitted by least squares to the codes, also with a zero point one off; a little apart."""
        scale, zero = held
        steps = values / scale[:, None]
        weighted = moments @ steps
        fitted = (weighted * best).sum(1) / (weighted * steps).sum(1).clamp(min=1e-30)
        fitted = torch.where(fitted > 0, self.stored(fitted), scale)
        apart = self.stored(scale / NUDGE), self.stored(scale * NUDGE)
        scales = torch.stack([scale, fitted, *apart, fitted, fitted], 1)
        zeros = torch.stack([zero, zero, zero, zero, zero - 1, zero + 1], 1).clamp_(0, self.largest)
        return torch.stack([scales, zeros])

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return parameters[0].reciprocal(), parameters[0], parameters[1]

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        inverse, scale, zero = ready
        codes = torch.mul(values, inverse, out=out).add_(zero).round_().clamp_(0, self.largest)
        return codes.sub_(zero).mul_(scale)
