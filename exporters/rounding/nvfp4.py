"""NVFP4: E2M1 in groups of 16 at E4M3 scales under a given global scale."""

from dataclasses import dataclass

import torch

GROUP = 16
_LARGEST = 6.0
_FIRST = (-4, -3, -2, -1, 0, 1, 2, 3, 4, 5)
_AROUND = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class Nvfp4:
    """global_scale: float32 [B], as compressed-tensors stores it. A group's one parameter is scale / global."""

    global_scale: torch.Tensor
    group: int = GROUP
    span: None = None

    def open(self, left: torch.Tensor, importance: torch.Tensor) -> None:
        return None

    def candidates(
        self, left: torch.Tensor, importance: torch.Tensor, shared: torch.Tensor | None, index: int
    ) -> torch.Tensor:
        return self._steps(left.abs().amax(1) / _LARGEST, _FIRST)

    def around(self, held, best, values, moments, shared):
        return self._steps(held[0], _AROUND)

    def _steps(self, parameter: torch.Tensor, offsets: tuple[int, ...]) -> torch.Tensor:
        """[B, R] -> [1, B, K, R]: E4M3 numbers so many steps from the nearest."""
        whole = self.global_scale[:, None]
        codes = (parameter * whole).clamp(max=448).to(torch.float8_e4m3fn).view(torch.uint8).to(torch.int16)
        near = codes[:, None] + torch.tensor(offsets, dtype=torch.int16, device=codes.device)[:, None]
        scales = near.clamp(1, 126).to(torch.uint8).view(torch.float8_e4m3fn).float()
        return (scales / whole[:, None])[None]

    def nearest(self, values: torch.Tensor, parameters: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        scale = parameters[0]
        size = (values / scale).clamp_(-_LARGEST, _LARGEST)
        sign = size
        size = size.abs()
        code = torch.minimum(torch.minimum((size * 2).round_(), size.round().add_(2)), (size * 0.5).round_().add_(4))
        level = torch.maximum(torch.maximum(code * 0.5, code - 2), (code - 4).mul_(2))
        return torch.mul(torch.copysign(level, sign), scale, out=out)
