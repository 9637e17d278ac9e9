"""Blocks of a weight that lost more than rounding to nearest may: did they, where what was minimized is counted?

Importance-weighted rounding gives up channels that carry little, so that the plain error of a block says nothing of
it. What it minimized is the sum of importance * sqrt(mean square of the row + weight^2) * error^2 (llama.cpp's
ggml-quants.c). A block is sound where that is a small share of the same sum over the weights themselves, as the format
allows a whole tensor, or where rounding it plainly under the same weights would lose no less than an eighth of it.
"""

import torch

from verification.reading.plain_rounding import Layout, rounded_plainly, weighted_by
from verification.weights.format_error import Limit, WeightError, block_errors

_WORSE = 8.0
"""How many times what plain rounding loses: llama.cpp's search and ours may end in different scales."""

_LARGER = 2.0
"""A block's relative error, as a part of what the format allows a whole tensor."""


_SURELY = 1 / 8
"""Of the largest weight that shares a scale of scales: a group of a larger one is not nearest to zeros."""

_CHANNELS = 0.5
"""Share of rows in which a group is zero, from which on its channels carry nothing."""


def unexplained(
    weight: torch.Tensor, source: torch.Tensor, limit: Limit, layout: Layout, importance: torch.Tensor
) -> WeightError | None:
    """The worst block, by its plain error, that importance does not explain; None where it explains all.

    weight, source: float32 [out, in]. importance: float32 [in].
    """
    errors, size = block_errors(weight, source, limit)
    beyond = errors > limit.block
    if not beyond.any():  # the tensor as a whole is off, and no block of it by itself
        beyond = torch.ones_like(beyond)
    rows = beyond.any(1)
    held, original = weight[rows], source[rows]
    counted = weighted_by(original, importance)

    def lost(values: torch.Tensor) -> torch.Tensor:
        return (counted * (values - original).pow(2)).unflatten(1, (-1, size)).sum(-1)

    whole = (counted * original.pow(2)).unflatten(1, (-1, size)).sum(-1)
    plain = lost(rounded_plainly(original, layout, importance))
    bad = beyond[rows] & (lost(held) > torch.maximum(_WORSE * plain, (_LARGER * limit.relative) ** 2 * whole))
    if not bad.any():
        return None
    ratios = torch.where(bad, errors[rows], torch.zeros_like(errors[rows]))
    row, block = divmod(int(ratios.argmax()), ratios.shape[1])
    relative = float((weight - source).norm() / source.norm())
    return WeightError(relative, float(ratios[row, block]), int(torch.nonzero(rows)[row]), block * size, 0.0)


def lost_group(weight: torch.Tensor, source: torch.Tensor, limit: Limit) -> tuple[int, int] | None:
    """Row and first column of a group that is all zeros and by its size should not be; None where there is none.

    A weighted search may leave a group at zero: one whose weights are small beside those that it shares a scale with,
    or whose channels carry nothing, which is so in every row.
    """
    lost = _lost(weight, source, limit, 1)
    if lost is None or not bool(lost.any()):
        return None
    row, block, group = torch.nonzero(lost)[0].tolist()
    return row, (block * lost.shape[2] + group) * limit.width


def lose_groups(weight: torch.Tensor, source: torch.Tensor, limit: Limit, matrices: int) -> list[bool]:
    """Whether each of several matrices under one another has such a group."""
    lost = _lost(weight, source, limit, matrices)
    return [False] * matrices if lost is None else lost.view(matrices, -1).any(1).tolist()


def _lost(weight: torch.Tensor, source: torch.Tensor, limit: Limit, matrices: int) -> torch.Tensor | None:
    """Bool [rows, superblocks, groups]."""
    if not limit.superblock or source.dim() != 2 or source.shape[1] % limit.superblock:
        return None
    rows, per = source.shape[0], limit.superblock // limit.width
    zero = ~weight.view(rows, -1, per, limit.width).any(3)
    if not bool(zero.any()):
        return None
    extremes = source.view(rows, -1, per, limit.width).abs().amax(3)
    large = extremes > _SURELY * extremes.amax(2, keepdim=True)
    often = zero.view(matrices, -1, *zero.shape[1:]).float().mean(1).repeat_interleave(rows // matrices, 0)
    return zero & large & (often < _CHANNELS)
