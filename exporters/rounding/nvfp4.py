"""NVFP4: E2M1 in groups of 16, at E4M3 scales under a given global scale."""

from dataclasses import dataclass

import torch

from exporters.rounding.floats import to_mantissa_
from exporters.rounding.format import Levels

GROUP = 16
_LARGEST = 6.0
FIRST = (-4, -3, -2, -1, 0, 1, 2, 3, 4, 5)
"""Steps of E4M3 (a sixteenth to an eighth each) from the scale that holds the largest weight exactly: below it that
weight is clipped; four or five above it, the largest weight stands at 4 and not at 6."""
AROUND = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class Nvfp4:
    """global_scale: float32 [B], as compressed-tensors stores it. A group's one parameter is scale / global_scale."""

    global_scale: torch.Tensor
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
        return self._steps(left.abs().amax(1) / _LARGEST, FIRST)

    def around(
        self,
        held: torch.Tensor,
        best: torch.Tensor,
        values: torch.Tensor,
        moments: torch.Tensor,
        shared: torch.Tensor | None,
    ) -> torch.Tensor:
        return self._steps(held[0], AROUND)

    def _steps(self, parameter: torch.Tensor, offsets: tuple[int, ...]) -> torch.Tensor:
        """[B, R] -> [1, B, K, R]: positive E4M3 numbers so many steps from the nearest. Their bits count upwards."""
        whole = self.global_scale[:, None]
        codes = (parameter * whole).clamp(max=448).to(torch.float8_e4m3fn).view(torch.uint8).to(torch.int16)
        near = codes[:, None] + torch.tensor(offsets, dtype=torch.int16, device=codes.device)[:, None]
        scales = near.clamp(1, 126).to(torch.uint8).view(torch.float8_e4m3fn).float()
        return (scales / whole[:, None])[None]

    def ready(self, parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return parameters[0].reciprocal(), parameters[0]

    def nearest(self, values: torch.Tensor, ready: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        inverse, scale = ready
        return e2m1_(torch.mul(values, inverse, out=out)).mul_(scale)


def e2m1(exact: torch.Tensor) -> torch.Tensor:
    """The E2M1 numbers nearest to `exact`, halfway cases to the even code; what is beyond 6 counts as 6."""
    return e2m1_(exact.clone())


def e2m1_(exact: torch.Tensor) -> torch.Tensor:
    return to_mantissa_(exact.clamp_(-_LARGEST, _LARGEST), 1, 1.0)
