"""Weights for inputs that an engine rounds too (W4A4): what is to be rounded is not the weight itself.

With x the input and x' what the engine makes of it, the outputs W'x' are to be near W x. Their squared error is least,
and grows from there by tr(D M' D^T), at

    W E[x x'^T] M'^-1        M' = E[x' x'^T]

Rounding is described channel by channel, as on the sample rows of the calibration: x' = (1 + b) x + u, with b by least
squares and u, of mean square v E[x^2], unrelated to all channels. A few rows say little of one channel, and channels
round much alike: b and v lie between a channel's own and the mean of all. With M = E[x x^T] and S = diag(1 + b),

    M' = S M S + diag(v M)        E[x x'^T] = M S

and damping is added to both, so that where nothing is rounded W stays what it is.

The description fails where few tokens hold most of an input's power (massive activations): a channel's rounding is then
not that of the sample's rows, and one channel's part is laid on hundreds of others. The sample's rows show that too:
where the solution errs more on them than W does, W is rounded for inputs as they are.
"""

from collections.abc import Sequence

import torch

from exporters.numerics.e2m1 import E2M1_MAX
from exporters.numerics.nvfp4 import E4M3_MAX, GROUP
from exporters.rounding.device import moved
from exporters.rounding.factor import Factor, factor
from exporters.rounding.nvfp4 import e2m1
from exporters.rounding.products import product
from sixfold.statistics.input_moments import Moments

_TINY = 1e-30
_ROWS = 512
"""What all channels have in common counts as so many rows of each. On rows of other texts, outputs err 1 to 2 % less
than by a channel's own rows alone, and as little where common ones count for all."""


def for_rounded_inputs(
    moments: Moments, sample: torch.Tensor, global_scale: torch.Tensor, weights: Sequence[torch.Tensor]
) -> tuple[Factor, torch.Tensor]:
    """The factor of the rounded input, and what stands for `weights` [out, in], one below the other, to be rounded:
    float32.

    sample: rows of the input, [S, in]. global_scale: of the input, float32 [1].
    """
    device = moments.mean.device
    read = sample.to(device, torch.float32)
    off = rounded(read, global_scale.to(device)) - read
    # Relative to the sample's own mean squares: some hundred rows say little of how large a channel is.
    size = read.square().mean(0).clamp(min=_TINY)
    along = (off * read).mean(0) / size  # b
    noise = (off.square().mean(0) / size - along.square()).clamp(min=0)  # v
    own = len(read) / (len(read) + _ROWS)
    kept = 1 + _common(along, size).lerp(along, own)
    noise = _common(noise, size).lerp(noise, own) * moments.mean.diagonal()
    both = moments.mean * kept  # M S
    mean = both * kept[:, None]
    mean.diagonal().add_(noise)
    found = factor(mean[None], moments.damping)
    both = both / mean.diagonal().mean().clamp(min=1e-30)  # the factor's matrices are in that unit
    both.diagonal().add_(moments.damping)
    upper = found.upper[0]
    rows = torch.cat([moved(weight, device).float() for weight in weights])
    target = product(product(product(rows, both), upper.mT), upper)
    wanted, seen = read @ rows.mT, read + off
    if _error(seen, target, wanted) > _error(seen, rows, wanted):
        return factor(moments.mean[None], moments.damping), rows
    return found, target


def _common(of_channels: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """The mean of the channels that carry anything; 0 where none does."""
    carries = size > _TINY
    return (of_channels * carries).sum() / carries.sum().clamp(min=1)


def _error(seen: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the outputs, each row's relative to its own size: the few enormous ones are not to decide."""
    off = (seen @ weight.mT - wanted).square().sum(-1)
    return float((off / wanted.square().sum(-1).clamp(min=1e-30)).sum())


def rounded(rows: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """NVFP4 as engines round inputs: E4M3 scales of 16 channels under the global scale, then E2M1."""
    groups = rows.unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / E2M1_MAX * global_scale).clamp(max=E4M3_MAX)
    scale = scale.to(torch.float8_e4m3fn).float() / global_scale
    return (e2m1(torch.where(scale > 0, groups / scale, 0.0)) * scale).flatten(-2)
