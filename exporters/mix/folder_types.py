"""The types that a mix in compressed-tensors' layout is made of: how a Linear is stored in each, and what it becomes.

A mix has one type of four bits, NVFP4 or INT4 in groups, with FP8 and BF16 for what suffers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from exporters import awq, fp8, nvfp4
from exporters.formats.compressed_tensors import SCHEMES, Scheme
from exporters.formats.pack_quantized import FORMAT, SCHEME, scheme
from exporters.mix.estimate import Rounding
from exporters.numerics import awq_packing
from exporters.numerics.fp8 import quantize_channels
from exporters.numerics.nvfp4 import GROUP, quantize_group
from exporters.protocol import Compensating
from exporters.smoothing.smoothing_groups import misfit_of
from sixfold.artifact.safetensors_layout import Draft, whole
from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe

PLAIN = "BF16"
FP8 = "FP8_DYNAMIC"
HIGHER = (FP8, PLAIN)
"""What a mix may have beside its type of four bits, smallest first."""
BASES = ("NVFP4A16", SCHEME)

Group = tuple[Linear, ...]
"""Linears that engines fuse."""

MAKERS: Mapping[str, tuple[Compensating, str]] = {
    nvfp4.ENCODING: (cast(Compensating, nvfp4.EXPORTER), "NVFP4A16"),
    fp8.ENCODING: (cast(Compensating, fp8.EXPORTER), FP8),
    awq.QUANTIZED: (cast(Compensating, awq.EXPORTER), SCHEME),
}
"""Encoding of a unit -> who makes it, and the type."""


@dataclass(frozen=True)
class Kind:
    """One type. drafts: the units of a group of Linears. misfit: why it cannot hold a Linear, "" where it can.
    damage: what damages.json calls it."""

    preset: Scheme
    drafts: Callable[[Group], list[Draft]]
    misfit: Callable[[Linear], str]
    damage: str
    rounding: Rounding


def as_recipe(recipe: Recipe, kind: str) -> Recipe:
    """What the exporter of a type is asked for."""
    options = {"layout": FORMAT} if kind == SCHEME else {}
    return recipe.model_copy(update={"scheme": kind, "options": options})


def kinds_of(source: Source, recipe: Recipe) -> dict[str, Kind]:
    """By name, the mix's type of four bits first; without BF16, which needs nothing."""
    base = _nvfp4 if recipe.scheme == "NVFP4A16" else _int4
    return {recipe.scheme: base(source, recipe), FP8: _fp8(source, recipe)}


def _nvfp4(source: Source, recipe: Recipe) -> Kind:
    own = as_recipe(recipe, "NVFP4A16")
    return Kind(
        SCHEMES["NVFP4A16"],
        lambda group: [nvfp4.draft(source, group, own)],
        nvfp4.misfit,
        "NVFP4A16",
        _Nvfp4(),
    )


def _fp8(source: Source, recipe: Recipe) -> Kind:
    own = as_recipe(recipe, FP8)
    return Kind(
        SCHEMES[FP8],
        lambda group: [fp8.draft(source, (linear,), own) for linear in group],
        lambda linear: "",
        FP8,
        _Fp8(),
    )


def _int4(source: Source, recipe: Recipe) -> Kind:
    options = awq.options_of(source, as_recipe(recipe, SCHEME))
    size = options.group_size

    def drafts(group: Group) -> list[Draft]:
        tensors = [(linear, whole(source.checkpoint.tensors[linear.weight])) for linear in group]
        return [Draft(awq.QUANTIZED, (part,), awq.outputs_of(linear, options)) for linear, part in tensors]

    return Kind(scheme(awq_packing.BITS, size), drafts, misfit_of(size), f"{SCHEME} in {size}", _Int4(size))


class _Nvfp4:
    compensated = True
    _LEVELS = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        (weight,), global_scale = quantize_group([rows], ["a tensor"])
        codes = torch.stack([weight.packed & 15, weight.packed >> 4], -1).flatten(1).long()
        values = self._LEVELS[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
        return values * (weight.scale.float() / global_scale).repeat_interleave(GROUP, 1)


class _Fp8:
    compensated = True

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        quantized, scales = quantize_channels(rows, "a tensor")
        return quantized.float() * scales


class _Int4:
    compensated = True

    def __init__(self, group: int) -> None:
        self._group = group

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        found = awq_packing.quantize(rows, self._group)
        scales, zeros = (values.float().repeat_interleave(self._group, 1) for values in (found.scales, found.zeros))
        return (found.levels.float() - zeros) * scales


class Plain:
    """BF16."""

    compensated = False

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        return rows.bfloat16().float()
