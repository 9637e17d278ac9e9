"""Weights for inputs that an engine rounds too (W4A4): what is to be rounded is not the weight itself.

With x the input and x' what the engine makes of it, the outputs W'x' are to be near W x. Their squared error is least,
and grows from there by tr(D M' D^T), at

    W E[x x'^T] M'^-1        M' = E[x' x'^T]

Both matrices differ from M = E[x x^T] by what rounding does, which is seen on the sample rows of the calibration:
channel by channel e = E[(x' - x)^2] and c = E[x (x' - x)], so that M' = M + diag(2 c + e) and E[x x'^T] = M + diag(c).
Errors of different channels are taken as unrelated.
"""

from collections.abc import Sequence

import torch

from exporters.numerics.nvfp4 import E2M1_MAX, E4M3_MAX, GROUP
from exporters.rounding.factor import Factor, factor
from exporters.rounding.inputs import Moments


def for_rounded_inputs(
    moments: Moments, sample: torch.Tensor, global_scale: torch.Tensor, weights: Sequence[torch.Tensor]
) -> tuple[Factor, list[torch.Tensor]]:
    """The factor of the rounded input, and what stands for each of `weights` [out, in] to be rounded: float32.

    sample: rows of the input, [S, in]. global_scale: of the input, float32 [1].
    """
    device = moments.mean.device
    rows = sample.to(device, torch.float32)
    off = _rounded(rows, global_scale.to(device)) - rows
    # Relative to the sample's own mean squares: some hundred rows say little of how large a channel is.
    size = rows.square().mean(0).clamp(min=1e-30)
    scale = moments.mean.diagonal() / size
    error, cross = off.square().mean(0) * scale, (off * rows).mean(0) * scale
    mean = moments.mean.clone()
    mean.diagonal().add_(2 * cross + error).clamp_(min=0)
    found = factor(mean[None], moments.damping)
    # W (M + diag(c)) M'^-1 = W - W diag(c + e) M'^-1, with the factor's matrices in units of the mean of M's diagonal.
    less = (cross + error) / mean.diagonal().mean().clamp(min=1e-30)
    upper = found.upper[0]
    values = [weight.to(device, torch.float32) for weight in weights]
    return found, [value - ((value * less) @ upper.mT) @ upper for value in values]


def _rounded(rows: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """NVFP4 as engines round inputs: E4M3 scales of 16 channels under the global scale, then E2M1."""
    groups = rows.unflatten(-1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / E2M1_MAX * global_scale).clamp(max=E4M3_MAX)
    scale = scale.to(torch.float8_e4m3fn).float() / global_scale
    exact = torch.where(scale > 0, groups / scale, 0.0).clamp_(-E2M1_MAX, E2M1_MAX)
    size = exact.abs()
    code = torch.minimum(torch.minimum((size * 2).round_(), size.round().add_(2)), (size * 0.5).round_().add_(4))
    level = torch.maximum(torch.maximum(code * 0.5, code - 2), (code - 4).mul_(2))
    return (level.copysign_(exact) * scale).flatten(-2)
