"""Weights with errors compensated, as files take them: codes and scales of what exporters/rounding finds.

Weights of one shape are rounded side by side, each by the factor of its own input.
"""

from collections.abc import Sequence

import torch

from exporters.numerics import awq_packing
from exporters.numerics.awq_packing import Quantized
from exporters.numerics.nvfp4 import PackedWeight, weight_global_scale
from exporters.rounding.compensate import compensate
from exporters.rounding.factor import Factor
from exporters.rounding.fp8 import Fp8
from exporters.rounding.int4 import Integers
from exporters.rounding.nvfp4 import GROUP, Nvfp4
from sixfold.errors import SixfoldError


def finite(weight: torch.Tensor, name: str) -> torch.Tensor:
    """The weight. Raises SixfoldError, with its name, where it holds NaN or infinity."""
    if not bool(torch.isfinite(weight).all()):
        raise SixfoldError(
            f"{name} holds NaN or infinite weights, which no scale can represent",
            "the source is damaged: download it again or find the step that broke it",
        )
    return weight


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
    scales = torch.cat([_global_scale(group, of) for group, of in zip(groups, names, strict=True)])
    if targets is None:
        targets = [torch.cat([w.to(device, torch.float32) for w in group]) for group in groups]
    rounded = compensate(torch.stack(list(targets)), known, Nvfp4(scales.to(device)))
    whole = scales.to(device)[:, None, None]
    scale = (rounded.parameters[0].mT * whole).to(torch.float8_e4m3fn)  # [B, R, C / 16]
    packed = _e2m1_codes(rounded.values, scale.float() / whole).cpu()
    parts = [len(weight) for weight in groups[0]]
    return [
        ([PackedWeight(*of) for of in zip(codes.split(parts), stored.split(parts), strict=True)], one)
        for codes, stored, one in zip(packed, scale.cpu(), scales.split(1), strict=True)
    ]


def _global_scale(weights: Sequence[torch.Tensor], names: Sequence[str]) -> torch.Tensor:
    dtypes = {weight.dtype for weight in weights}
    own = [weight.to(torch.float32 if len(dtypes) > 1 else weight.dtype) for weight in weights]
    largest = torch.stack([finite(w, name).abs().amax() for w, name in zip(own, names, strict=True)]).amax()
    return weight_global_scale(largest)


def _e2m1_codes(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """values [B, R, C], which are E2M1 numbers times scale [B, R, C / 16] -> uint8 [B, R, C / 2], low half first."""
    halves = (values.unflatten(-1, (-1, GROUP)) / scale[..., None] * 2).round().flatten(-2)
    codes = _CODES.to(values.device)[halves.abs().clamp(max=12).int()] | (halves < 0).to(torch.uint8) << 3
    return codes[..., 0::2] | codes[..., 1::2] << 4


_CODES = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7], dtype=torch.uint8)
"""Of E2M1 numbers, by twice their size; what lies between two numbers does not occur."""


def fp8_channels(
    weights: Sequence[torch.Tensor], names: Sequence[str], known: Factor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each weight what exporters.numerics.fp8.quantize_channels gives for it."""
    device, dtype = known.upper.device, weights[0].dtype
    rows = [finite(w, name).to(device, torch.float32) for w, name in zip(weights, names, strict=True)]
    rounded = compensate(torch.stack(rows), known, Fp8.of(dtype, weights[0].shape[1]))
    scale = rounded.parameters[0, :, 0, :, None]  # one for all groups of a row
    codes = (rounded.values / scale).to(torch.float8_e4m3fn)
    return list(zip(codes.cpu(), scale.to(dtype).cpu(), strict=True))


def int4_groups(weights: Sequence[torch.Tensor], names: Sequence[str], group: int, known: Factor) -> list[Quantized]:
    """Of each weight what exporters.numerics.awq_packing.quantize gives for it.

    Raises SixfoldError, with its name, where one holds inf or NaN, or values beyond FP16's scales.
    """
    rows = [weight.to(known.upper.device, torch.float32) for weight in weights]
    for weight, name in zip(rows, names, strict=True):
        if not bool(torch.isfinite(awq_packing.storable(weight.abs().amax() * 2 / awq_packing.LEVELS))):
            raise SixfoldError(
                f"{name}: weights are not finite or too large for FP16 scales",
                "check the source checkpoint, or `keep` this Linear",
            )
    form = Integers(awq_packing.LEVELS, awq_packing.storable, group)
    rounded = compensate(torch.stack(rows), known, form)
    scales, zeros = rounded.parameters.mT  # [B, R, C / group] each
    levels = rounded.values.unflatten(2, (-1, group)) / scales[..., None] + zeros[..., None]
    codes = levels.round().clamp(0, awq_packing.LEVELS).flatten(2).to(torch.uint8)
    made = zip(codes.cpu(), zeros.to(torch.uint8).contiguous().cpu(), scales.contiguous().cpu(), strict=True)
    return [Quantized(*of) for of in made]
