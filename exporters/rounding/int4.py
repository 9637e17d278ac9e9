"""Unsigned integers of a few bits with a scale and a zero point a group."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True)
class Integers:
    """levels: the largest. stored: rounds scales to what files hold. Parameters: scale and zero point."""

    levels: int
    stored: Callable[[torch.Tensor], torch.Tensor]
    group: int
    span: None = None

    def open(self, left, importance):
        return None

    def candidates(self, left, importance, shared, index):
        low, high = left.amin(1).clamp(max=0), left.amax(1).clamp(min=0)
        shrink = torch.tensor(_SHRINKS, device=left.device)[None, :, None]
        low, high = low[:, None] * shrink, high[:, None] * shrink
        scale = self.stored((high - low) / self.levels)
        return torch.stack([scale, (low / -scale).round_().clamp_(0, self.levels)])

    def around(self, held, best, values, moments, shared):
        scale, zero = held
        steps = values / scale[:, None]
        weighted = moments @ steps
        fitted = (weighted * best).sum(1) / (weighted * steps).sum(1).clamp(min=1e-30)
        fitted = torch.where(fitted > 0, self.stored(fitted), scale)
        scales = torch.stack([scale, fitted, self.stored(scale * 0.97), self.stored(scale * 1.03), fitted, fitted], 1)
        zeros = torch.stack([zero, zero, zero, zero, zero - 1, zero + 1], 1).clamp_(0, self.levels)
        return torch.stack([scales, zeros])

    def nearest(self, values, parameters, out):
        scale, zero = parameters
        codes = (values / scale).add_(zero).round_().clamp_(0, self.levels)
        return torch.mul(codes.sub_(zero), scale, out=out)
