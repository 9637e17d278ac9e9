"""From the second moments of an input to what rounding needs of them: a damped matrix and its triangular factor.

The error of a Linear's outputs is tr(D M D^T) for the error D of its weights and the second moments M = X^T X / tokens
of its input. GPTQ (Frantar et al., arXiv 2210.17323) carries the error of a column into the columns still to come by
the upper triangular U with (M + damping)^-1 = U^T U. It is had by one Cholesky decomposition of the matrix with its
rows and columns reversed, and one triangular inverse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from sixfold.statistics.input_moments import DAMPING

_HARDER = 10.0
_TRIES = 6


@dataclass(frozen=True)
class Factor:
    """moments: float32 [B, C, C], symmetric, damped. upper: float32 [B, C, C], U with U^T U = moments^-1."""

    moments: torch.Tensor
    upper: torch.Tensor

    @property
    def channels(self) -> int:
        return self.moments.shape[-1]


def factor(moments: torch.Tensor, damping: float = DAMPING) -> Factor:
    """moments: float32 [B, C, C], symmetric and positive semidefinite but for rounding; scaled so that the mean of the
    diagonal is 1 (errors of several inputs are never compared).

    Channels that never carried anything get the damping alone. Where float sums left a matrix indefinite, damping grows
    tenfold until it is not.
    """
    diagonal = moments.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1).clamp(min=1e-30)
    scaled = moments / mean[:, None, None]
    for attempt in range(_TRIES):
        damped = scaled.clone()
        damped.diagonal(dim1=-2, dim2=-1).add_(damping * _HARDER**attempt)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(-2, -1))
        if not bool(failed.any()):
            break
    reverse = lower.flip(-2, -1)  # upper triangular, damped = reverse @ reverse^T
    identity = torch.eye(reverse.shape[-1], dtype=reverse.dtype, device=reverse.device).expand_as(reverse)
    return Factor(damped, torch.linalg.solve_triangular(reverse, identity, upper=True))


def side_by_side(factors: Sequence[Factor]) -> Factor:
    """Of one shape; one for all where they are the same."""
    if all(factor is factors[0] for factor in factors):
        return factors[0]
    return Factor(torch.cat([f.moments for f in factors]), torch.cat([f.upper for f in factors]))


@lru_cache(2)
def unrelated(channels: int, device: torch.device) -> Factor:
    """Of an input whose channels are unrelated and of one size: what is searched for then is the weights' own error."""
    identity = torch.eye(channels, device=device)[None]
    return Factor(identity, identity)


def group_factors(moments: torch.Tensor, group: int) -> torch.Tensor:
    """U of every diagonal block of `group` channels by itself: float32 [B, C / group, group, group]."""
    batch, channels, _ = moments.shape
    number = channels // group
    blocks = moments.view(batch, number, group, number, group).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    lower = torch.linalg.cholesky(blocks.flip(-2, -1))
    identity = torch.eye(group, dtype=moments.dtype, device=moments.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower.flip(-2, -1).contiguous(), identity, upper=True)
