"""FP8 (W8A8): E4M3 weights per output channel, per 128 x 128 block, or per tensor with fixed input scales.

FP8_DYNAMIC and FP8_BLOCK quantize inputs as they come, so they need no calibration. FP8 (per tensor, fixed input
scales) exists for ModelOpt's layout, whose readers know nothing else for the experts of an MoE model.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel

from exporters import cache_scales
from exporters.formats import compressed_tensors, modelopt
from exporters.formats.layouts import LayoutOptions, caches_fp8, layout_name, layout_of
from exporters.input_maxima import largest_inputs
from exporters.numerics.compensated import fp8_channels
from exporters.numerics.fp8 import BLOCK, quantize_blocks, quantize_channels, quantize_tensors, static_scale
from exporters.protocol import Decided, Decisions, Tokens
from exporters.rounding.compensated_where_known import each
from exporters.rounding.device import at_device, sent_home
from exporters.rounding.factor import Factor
from exporters.rounding.inputs import Inputs
from exporters.selection import Selection, drafts, not_run_note, require_any, select
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import Draft, DraftTensor, carried_texts, place, whole
from sixfold.checkpoint.checkpoint import SourceTensor
from sixfold.checkpoint.storage.source_encodings import FP8_CODES, FP8_SCALES
from sixfold.errors import UsageError
from sixfold.model.architecture import Linear, require_quantizable
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics, required

ENCODING = "fp8"
VERBATIM = "verbatim"
"""Codes and scales of a source that has them in this very form."""

_SCHEMES = {"compressed-tensors": ("FP8_DYNAMIC", "FP8_BLOCK"), "modelopt": ("FP8", "FP8_DYNAMIC")}


class Fp8Exporter:
    Options: type[BaseModel] = LayoutOptions

    def needs_statistics(self, recipe: Recipe) -> bool:
        return recipe.scheme == "FP8" or self.compensates(recipe) or caches_fp8(recipe)

    def compensates(self, recipe: Recipe) -> bool:
        return recipe.compensates and recipe.scheme == "FP8_DYNAMIC"

    def prepare(
        self, source: Source, recipe: Recipe, statistics: Statistics, tokens: Tokens | None, progress: Progress
    ) -> None:
        """Finds what scales of caches are made from, where the recipe asks for them."""
        cache_scales.find_largest(source, recipe, statistics, tokens, progress)

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        _check(source, recipe)
        selection = _select(source.architecture.linears, recipe)
        require_any(selection, source, recipe)
        # Only a scale that fused Linears share makes them one unit; else each is read and written by itself.
        groups = selection.groups
        if recipe.scheme != "FP8":
            groups = tuple((linear,) for group in groups for linear in group)
        drafted = drafts(source, groups, lambda group: draft(source, group, recipe))
        texts = layout_of(recipe).texts(source, recipe.scheme, selection.quantized, fp8_cache=caches_fp8(recipe))
        return place(
            cache_scales.with_caches(source, recipe, drafted),
            variant=recipe.name,
            folder=f"{source.checkpoint.name}-{recipe.suffix}",
            texts=carried_texts(source) | texts,
            notes=(*_verbatim_note(drafted), *selection.notes, *not_run_note(source)),
        )

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        statistics = required(statistics, recipe.name)
        caches = cache_scales.cache_scales(source, recipe, statistics, layer)
        if recipe.scheme != "FP8":
            return Decided(caches)
        groups = _select([linear for linear in source.architecture.linears if linear.layer == layer], recipe).groups
        largest, notes = largest_inputs(statistics, [linear for group in groups for linear in group])
        scales = {f"{name}.{modelopt.INPUT_SCALE}": static_scale(value.reshape(1)) for name, value in largest.items()}
        return Decided(scales | caches, tuple(notes))

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        if unit.encoding == VERBATIM:
            return list(inputs)
        names = [part.name for part in unit.inputs]
        if recipe.scheme == "FP8":
            *quantized, scale = at_device(inputs, lambda weights: _tensors(weights, names))
            scales = [decisions[f"{name.removesuffix('.weight')}.{modelopt.INPUT_SCALE}"] for name in names]
            return [t for weight, x in zip(quantized, scales, strict=True) for t in (weight, scale, x)]
        quantize = quantize_blocks if recipe.scheme == "FP8_BLOCK" else quantize_channels
        weight, scale = at_device(inputs, lambda weights: quantize(weights[0], names[0]))
        return _channels(weight, scale, recipe)

    def compensate(
        self,
        units: Sequence[Unit],
        inputs: Sequence[Sequence[torch.Tensor]],
        decisions: Sequence[Decisions],
        recipe: Recipe,
        known: Inputs,
    ) -> Sequence[Sequence[torch.Tensor]]:
        names = [unit.inputs[0].name for unit in units]

        def rounded(places: Sequence[int], factor: Factor) -> list[Sequence[torch.Tensor]]:
            made = fp8_channels([inputs[n][0] for n in places], [names[n] for n in places], factor)
            return [[sent_home(part) for part in _channels(*channels, recipe)] for channels in made]

        factors = [known.factor(name.removesuffix(".weight")) for name in names]
        return each(factors, lambda n: self.encode(units[n], inputs[n], decisions[n], recipe), rounded)


def _tensors(weights: Sequence[torch.Tensor], names: Sequence[str]) -> list[torch.Tensor]:
    quantized, scale = quantize_tensors(weights, names)
    return [*quantized, scale]


def _channels(weight: torch.Tensor, scale: torch.Tensor, recipe: Recipe) -> list[torch.Tensor]:
    return [weight, scale.float() if layout_name(recipe) == "modelopt" else scale]


def _check(source: Source, recipe: Recipe) -> None:
    schemes = _SCHEMES[layout_name(recipe)]
    if recipe.scheme not in schemes:
        raise UsageError(
            f"{recipe.name}: the fp8 exporter does not make {recipe.scheme} in the layout of {layout_name(recipe)}",
            f"set `scheme` to {' or '.join(schemes)}",
        )
    if layout_name(recipe) == "modelopt" and recipe.scheme == "FP8_DYNAMIC" and source.architecture.experts:
        raise UsageError(
            f"{recipe.name}: no engine reads experts with one scale per channel in ModelOpt's layout",
            "set `scheme: FP8` (one scale per tensor and fixed input scales, from calibration)",
        )
    require_quantizable(source.architecture, recipe.name)


def _select(linears: Sequence[Linear], recipe: Recipe) -> Selection:
    return select(linears, recipe, _block_misfit if recipe.scheme == "FP8_BLOCK" else lambda _: "")


def _block_misfit(linear: Linear) -> str:
    """vLLM takes a smaller block at the end of the output channels, except where another weight follows in the same
    matrix, and none in the input channels."""
    if linear.in_features % BLOCK:
        return f"{BLOCK} does not divide its input channels"
    followed = linear.expert is not None or linear.name in linear.fused[:-1]
    return f"{BLOCK} does not divide its output channels" if followed and linear.out_features % BLOCK else ""


def _as_stored(source: Source, linear: Linear) -> tuple[SourceTensor, SourceTensor] | None:
    """Codes and scales of a weight that the source has in blocks of FP8; None of any other."""
    held = source.checkpoint.quantized
    codes, scales = held.get(f"{linear.weight}{FP8_CODES}"), held.get(f"{linear.weight}{FP8_SCALES}")
    return None if codes is None or scales is None else (codes, scales)


def _verbatim_note(drafted: Sequence[Draft]) -> tuple[str, ...]:
    count = sum(one.encoding == VERBATIM for one in drafted)
    return (f"as the source has them in FP8, codes and scales unchanged: {count} Linears",) if count else ()


def draft(source: Source, group: tuple[Linear, ...], recipe: Recipe) -> Draft:
    tensors = source.checkpoint.tensors
    if recipe.scheme == "FP8_BLOCK" and (stored := _as_stored(source, group[0])):
        codes, scales = stored
        names = (f"{group[0].name}.{part}" for part in (compressed_tensors.WEIGHT, compressed_tensors.WEIGHT_SCALE))
        kept = tuple(DraftTensor(name, part.dtype, part.shape) for name, part in zip(names, stored, strict=True))
        return Draft(VERBATIM, (whole(codes), whole(scales)), kept)
    outputs = []
    for linear in group:
        rows, columns = linear.out_features, linear.in_features
        scale, dtype = compressed_tensors.WEIGHT_SCALE, tensors[linear.weight].dtype
        outputs.append(DraftTensor(f"{linear.name}.{compressed_tensors.WEIGHT}", "F8_E4M3", (rows, columns)))
        if recipe.scheme == "FP8":
            outputs.append(DraftTensor(f"{linear.name}.{scale}", "F32", ()))
            outputs.append(DraftTensor(f"{linear.name}.{modelopt.INPUT_SCALE}", "F32", ()))
        elif recipe.scheme == "FP8_BLOCK":
            outputs.append(DraftTensor(f"{linear.name}.{scale}", dtype, (-(-rows // BLOCK), -(-columns // BLOCK))))
        elif layout_name(recipe) == "modelopt":
            outputs.append(DraftTensor(f"{linear.name}.{scale}", "F32", (rows,)))
        else:
            outputs.append(DraftTensor(f"{linear.name}.{scale}", dtype, (rows, 1)))
    inputs = tuple(whole(tensors[linear.weight]) for linear in group)
    return Draft(ENCODING, inputs, tuple(outputs), group[0].layer if recipe.scheme == "FP8" else None)


EXPORTER = Fp8Exporter()
