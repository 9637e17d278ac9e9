"""Weights with errors compensated, as files take them: codes and scales of what exporters/rounding finds.

Weights of one shape are rounded side by side, each by the factor of its own input. What is made of them arrives on the
host when the turn at a GPU is over (exporters.rounding.device).
"""

from collections.abc import Sequence
from functools import cache

import torch

from exporters.numerics import awq_packing
from exporters.numerics.awq_packing import Quantized
from exporters.numerics.magnitudes import require_finite
from exporters.numerics.nvfp4 import PackedWeight, weight_global_scale
from exporters.rounding.compensate import compensate
from exporters.rounding.device import moved, sent_home, to_host
from exporters.rounding.factor import Factor
from exporters.rounding.fp8 import Fp8
from exporters.rounding.int4 import Integers
from exporters.rounding.mxfp4 import Mxfp4
from exporters.rounding.nvfp4 import Nvfp4
from sixfold.errors import SixfoldError


def stacked(weights: Sequence[torch.Tensor], names: Sequence[str], device: torch.device) -> torch.Tensor:
    """Weights of one shape as float32 [B, ...] on the device, which is where they are converted.

    Raises SixfoldError, with its name, where one holds NaN or infinity.
    """
    rows = torch.stack([moved(weight, device) for weight in weights]).float()
    require_finite(list(rows), names)
    return rows


def nvfp4_groups(
    groups: Sequence[Sequence[torch.Tensor]],
    names: Sequence[Sequence[str]],
    known: Factor,
    targets: Sequence[torch.Tensor] | None = None,
) -> list[tuple[list[PackedWeight], torch.Tensor]]:
    """Of each group what exporters.numerics.nvfp4.quantize_group gives for it; its weights [out, in] read one input.

    targets: float32 [rows of a group, in], what is rounded in place of the weights (which give the global scale).
    """
    device = known.upper.device
    parts = [
        stacked(alike, of, device)
        for alike, of in zip(zip(*groups, strict=True), zip(*names, strict=True), strict=True)
    ]
    scales = _global_scales(parts, {weight.dtype for weight in groups[0]})
    stored_scales = to_host(scales)  # before there is anything to wait for
    rows = torch.cat(parts, 1) if targets is None else torch.stack(list(targets))
    rounded = compensate(rows, known, Nvfp4(scales))
    whole = scales[:, None, None]
    scale = (rounded.parameters[0].mT * whole).to(torch.float8_e4m3fn)  # [B, R, C / 16]
    packed = sent_home(_e2m1_codes(rounded.values, scale.float() / whole))
    lengths = [part.shape[1] for part in parts]
    return [
        ([PackedWeight(*of) for of in zip(codes.split(lengths), stored.split(lengths), strict=True)], one)
        for codes, stored, one in zip(packed, sent_home(scale), stored_scales.split(1), strict=True)
    ]


def _global_scales(parts: Sequence[torch.Tensor], dtypes: set[torch.dtype]) -> torch.Tensor:
    """Of each group, float32 [B]. parts: float32 [B, out, in]. dtypes: that the weights of a group are stored in."""
    largest = torch.stack([part.abs().amax((1, 2)) for part in parts]).amax(0)
    if len(dtypes) == 1:
        largest = largest.to(next(iter(dtypes)))
    return torch.cat([weight_global_scale(one) for one in largest])


def _e2m1_codes(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """values [B, R, C], which are E2M1 numbers times scale [B, R, groups] -> uint8 [B, R, C / 2], low half first."""
    halves = (values.unflatten(-1, (scale.shape[-1], -1)) / scale[..., None] * 2).round().flatten(-2)
    codes = _codes_on(values.device)[halves.abs().clamp(max=12).int()] | (halves < 0).to(torch.uint8) << 3
    return codes[..., 0::2] | codes[..., 1::2] << 4


_CODES = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7], dtype=torch.uint8)
"""Of E2M1 numbers, by twice their size; what lies between two numbers does not occur."""


@cache
def _codes_on(device: torch.device) -> torch.Tensor:
    """Moved once: a GPU is done with all that it was given before something comes from memory that is not pinned."""
    return _CODES.to(device)


def mxfp4_weights(weights: Sequence[torch.Tensor], names: Sequence[str], known: Factor) -> list[PackedWeight]:
    """Of each weight what exporters.numerics.mxfp4.quantize gives for it."""
    rounded = compensate(stacked(weights, names, known.upper.device), known, Mxfp4())
    scale = rounded.parameters[0].mT  # [B, R, C / 32]
    codes = _e2m1_codes(rounded.values, scale)
    stored = (scale.contiguous().view(torch.int32) >> 23).to(torch.uint8)  # the exponents, of normal powers of two
    return [PackedWeight(*of) for of in zip(sent_home(codes), sent_home(stored), strict=True)]


def fp8_channels(
    weights: Sequence[torch.Tensor], names: Sequence[str], known: Factor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each weight what exporters.numerics.fp8.quantize_channels gives for it; the scales are on the device still."""
    device, dtype = known.upper.device, weights[0].dtype
    rounded = compensate(stacked(weights, names, device), known, Fp8.of(dtype, weights[0].shape[1]))
    scale = rounded.parameters[0, :, 0, :, None]  # one for all groups of a row
    codes = (rounded.values / scale).to(torch.float8_e4m3fn)
    return list(zip(sent_home(codes), scale.to(dtype), strict=True))


def int4_groups(weights: Sequence[torch.Tensor], names: Sequence[str], group: int, known: Factor) -> list[Quantized]:
    """Of each weight what exporters.numerics.awq_packing.quantize gives for it, on the device: to be packed there.

    Raises SixfoldError, with its name, where one holds inf or NaN, or values beyond FP16's scales.
    """
    rows = torch.stack([moved(weight, known.upper.device) for weight in weights]).float()
    largest = awq_packing.storable(rows.abs().amax((1, 2)) * 2 / awq_packing.LEVELS)
    for name, sound in zip(names, torch.isfinite(largest).tolist(), strict=True):
        if not sound:
            raise SixfoldError(
                f"{name}: weights are not finite or too large for FP16 scales",
                "check the source checkpoint, or `keep` this Linear",
            )
    rounded = compensate(rows, known, Integers(awq_packing.LEVELS, awq_packing.storable, group))
    scales, zeros = rounded.parameters.mT  # [B, R, C / group] each
    levels = rounded.values.unflatten(2, (-1, group)) / scales[..., None] + zeros[..., None]
    codes = levels.round().clamp(0, awq_packing.LEVELS).flatten(2).to(torch.uint8)
    made = zip(codes, zeros.to(torch.uint8).contiguous(), scales.contiguous(), strict=True)
    return [Quantized(*of) for of in made]
