"""The types that a mix in compressed-tensors' layout is made of, and what weights become in each."""

from collections.abc import Mapping

import torch

from exporters.mix.estimate import Rounding
from exporters.numerics.fp8 import quantize_channels
from exporters.numerics.nvfp4 import GROUP, quantize_group

PLAIN = "BF16"
TYPES = ("NVFP4A16", "FP8_DYNAMIC", PLAIN)
"""Smallest first."""

_E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def roundings() -> Mapping[str, Rounding]:
    return {"NVFP4A16": _Nvfp4(), "FP8_DYNAMIC": _Fp8(), PLAIN: _Bf16()}


class _Nvfp4:
    compensated = True

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        (weight,), global_scale = quantize_group([rows], ["a tensor"])
        codes = torch.stack([weight.packed & 15, weight.packed >> 4], -1).flatten(1).long()
        values = _E2M1[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
        scales = (weight.scale.float() / global_scale).repeat_interleave(GROUP, 1)
        return values * scales


class _Fp8:
    compensated = True

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        quantized, scales = quantize_channels(rows, "a tensor")
        return quantized.float() * scales


class _Bf16:
    compensated = False

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        return rows.bfloat16().float()
