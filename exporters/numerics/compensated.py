"""Weights with errors compensated, as files take them: codes and scales of what exporters/rounding finds."""

from collections.abc import Sequence

import torch

from exporters.numerics import awq_packing, nvfp4
from exporters.numerics.awq_packing import Quantized
from exporters.numerics.nvfp4 import PackedWeight, weight_global_scale
from exporters.rounding.compensate import compensate
from exporters.rounding.factor import Factor
from exporters.rounding.fp8 import Fp8
from exporters.rounding.int4 import Integers
from exporters.rounding.nvfp4 import Nvfp4
from sixfold.errors import SixfoldError


def finite(weight: torch.Tensor, name: str) -> torch.Tensor:
    """The weight. Raises SixfoldError, with its name, where it holds NaN or infinity."""
    if not bool(torch.isfinite(weight).all()):
        raise SixfoldError(
            f"{name} holds NaN or infinite weights, which no scale can represent",
            "the source is damaged: download it again or find the step that broke it",
        )
    return weight


def nvfp4_group(
    weights: Sequence[torch.Tensor], names: Sequence[str], known: Factor, targets: Sequence[torch.Tensor] | None = None
) -> tuple[list[PackedWeight], torch.Tensor]:
    """As exporters.numerics.nvfp4.quantize_group, for weights [out, in] that read one input.

    targets: float32, what is rounded in place of the weights (which give the global scale).
    """
    dtypes = {weight.dtype for weight in weights}
    own = [w.to(torch.float32 if len(dtypes) > 1 else w.dtype) for w in weights]
    largest = torch.stack([finite(w, name).abs().amax() for w, name in zip(own, names, strict=True)]).amax()
    global_scale = weight_global_scale(largest)
    device = known.upper.device
    rows = torch.cat([w.to(device, torch.float32) for w in targets or own])
    rounded = compensate(rows[None], known, Nvfp4(global_scale.to(device)))
    values = rounded.values[0].cpu()
    scale = (rounded.parameters[0, 0].t().cpu() * global_scale).to(torch.float8_e4m3fn)
    parts = [len(w) for w in weights]
    packed = [nvfp4.pack(v, s, global_scale) for v, s in zip(values.split(parts), scale.split(parts), strict=True)]
    return packed, global_scale


def fp8_channels(weight: torch.Tensor, name: str, known: Factor) -> tuple[torch.Tensor, torch.Tensor]:
    """As exporters.numerics.fp8.quantize_channels."""
    device = known.upper.device
    rows = finite(weight, name).to(device, torch.float32)
    rounded = compensate(rows[None], known, Fp8.of(weight.dtype, weight.shape[1]))
    scale = rounded.parameters[0, 0, 0]  # one for all groups of a row
    codes = (rounded.values[0] / scale[:, None]).to(torch.float8_e4m3fn)
    return codes.cpu(), scale[:, None].to(weight.dtype).cpu()


def int4_groups(weight: torch.Tensor, group: int, known: Factor) -> Quantized:
    """As exporters.numerics.awq_packing.quantize.

    Raises ValueError where a group holds inf or NaN, or values beyond FP16's scales.
    """
    values = weight.to(known.upper.device, torch.float32)
    form = Integers(awq_packing.LEVELS, awq_packing.storable, group)
    if not bool(torch.isfinite(awq_packing.storable(values.abs().amax() * 2 / awq_packing.LEVELS))):
        raise ValueError("weights are not finite or too large for FP16 scales")
    rounded = compensate(values[None], known, form)
    scales, zeros = rounded.parameters[:, 0].mT
    levels = rounded.values[0].unflatten(1, (-1, group)) / scales[..., None] + zeros[..., None]
    return Quantized(
        levels.round().clamp(0, awq_packing.LEVELS).flatten(1).to(torch.uint8).cpu(),
        zeros.to(torch.uint8).contiguous().cpu(),
        scales.contiguous().cpu(),
    )
