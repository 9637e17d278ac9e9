"""The types that a mix of folders' formats is made of: how a Linear is stored in each, and what it becomes.

A mix has one type of four bits, NVFP4 or INT4 in groups, with FP8 and BF16 for what suffers. ModelOpt's layout has no
INT4 in groups here, and its readers know FP8 in a mix only with one scale a tensor and fixed input scales.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from exporters import awq, fp8, nvfp4
from exporters.formats import modelopt
from exporters.formats.compressed_tensors import SCHEMES, Scheme, mixed_texts
from exporters.formats.layouts import caches_fp8, layout_name
from exporters.formats.pack_quantized import FORMAT, SCHEME, scheme
from exporters.mix.estimate import Rounding
from exporters.numerics import awq_packing
from exporters.numerics.fp8 import quantize_channels, quantize_tensors
from exporters.numerics.nvfp4 import GROUP, quantize_group
from exporters.protocol import Compensating
from exporters.smoothing.smoothing_groups import misfit_of
from sixfold.artifact.safetensors_layout import Draft, whole
from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe

PLAIN = "BF16"
FP8 = {"compressed-tensors": "FP8_DYNAMIC", "modelopt": "FP8"}
"""The FP8 of a layout's mixes."""
BASES = {"compressed-tensors": ("NVFP4A16", SCHEME), "modelopt": ("NVFP4A16",)}
"""The types of four bits that a layout's mixes may have."""

Group = tuple[Linear, ...]
"""Linears that engines fuse."""

MAKERS: Mapping[str, Compensating] = {
    nvfp4.ENCODING: cast(Compensating, nvfp4.EXPORTER),
    fp8.ENCODING: cast(Compensating, fp8.EXPORTER),
    awq.QUANTIZED: cast(Compensating, awq.EXPORTER),
}
"""Encoding of a unit -> who makes it."""


@dataclass(frozen=True)
class Kind:
    """One type. preset: compressed-tensors', None of a type that it has no part in. drafts: the units of a group of
    Linears. misfit: why it cannot hold a Linear, "" where it can. damage: what damages.json calls it."""

    preset: Scheme | None
    drafts: Callable[[Group], list[Draft]]
    misfit: Callable[[Linear], str]
    damage: str
    rounding: Rounding


def higher(recipe: Recipe) -> tuple[str, ...]:
    """What the mix may have beside its type of four bits, smallest first."""
    return (FP8[layout_name(recipe)], PLAIN)


def as_recipe(recipe: Recipe, kind: str) -> Recipe:
    """What the exporter of a type is asked for."""
    layout = FORMAT if kind == SCHEME else layout_name(recipe)
    return recipe.model_copy(update={"scheme": kind, "options": {"layout": layout}})


def recipe_of(recipe: Recipe, encoding: str) -> Recipe:
    """What the exporter is asked for that makes units of an encoding."""
    return as_recipe(recipe, FP8[layout_name(recipe)] if encoding == fp8.ENCODING else recipe.scheme)


def kinds_of(source: Source, recipe: Recipe) -> dict[str, Kind]:
    """By name, the mix's type of four bits first; without BF16, which needs nothing."""
    base = _nvfp4 if recipe.scheme == "NVFP4A16" else _int4
    eight = FP8[layout_name(recipe)]
    return {
        recipe.scheme: base(source, recipe),
        eight: (_fp8 if eight == "FP8_DYNAMIC" else _fp8_static)(source, recipe),
    }


def texts_of(source: Source, recipe: Recipe, chosen: Mapping[str, str]) -> dict[str, bytes]:
    """The config files. chosen: of each quantized Linear the name of its type."""
    if layout_name(recipe) == "modelopt":
        return modelopt.mixed_texts(source, chosen, fp8_cache=caches_fp8(recipe))
    presets = {name: kind.preset for name, kind in kinds_of(source, recipe).items() if kind.preset is not None}
    return mixed_texts(source, presets, chosen, fp8_cache=caches_fp8(recipe))


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
    own = as_recipe(recipe, "FP8_DYNAMIC")
    return Kind(
        SCHEMES["FP8_DYNAMIC"],
        lambda group: [fp8.draft(source, (linear,), own) for linear in group],
        lambda linear: "",
        "FP8_DYNAMIC",
        _Fp8(),
    )


def _fp8_static(source: Source, recipe: Recipe) -> Kind:
    own = as_recipe(recipe, "FP8")
    return Kind(None, lambda group: [fp8.draft(source, group, own)], lambda linear: "", "FP8", _Fp8Static())


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


class _Fp8Static:
    """One scale for all rows; which of them is the largest matters little to floating point."""

    compensated = False

    def __call__(self, rows: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
        (quantized,), scale = quantize_tensors([rows], ["a tensor"])
        return quantized.float() * scale


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
