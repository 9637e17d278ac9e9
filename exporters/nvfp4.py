"""NVFP4: E2M1 weights in groups of 16; activations in 16 bits (NVFP4A16) or in NVFP4 as well (NVFP4, W4A4).

Linears that engines fuse share one global scale, because engines keep only one: a unit holds them all. W4A4 adds the
global scale of each input, from the largest value that calibration saw.
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel

from exporters import cache_scales
from exporters.formats import compressed_tensors
from exporters.formats.layouts import LayoutOptions, caches_fp8, layout_name, layout_of
from exporters.input_maxima import largest_inputs
from exporters.numerics.compensated import nvfp4_groups
from exporters.numerics.nvfp4 import GROUP, PackedWeight, input_global_scale, quantize_group
from exporters.protocol import Decided, Decisions, Tokens
from exporters.rounding.compensated_where_known import each
from exporters.rounding.device import device, moved, to_host, turn
from exporters.rounding.factor import Factor
from exporters.rounding.inputs import Inputs
from exporters.rounding.rounded_inputs import for_rounded_inputs
from exporters.selection import Selection, drafts, not_run_note, require_any, select
from exporters.shared_by_formats import once
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import Draft, DraftTensor, carried_texts, place, whole
from sixfold.errors import UsageError
from sixfold.model.architecture import Linear, require_quantizable
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics, required

ENCODING = "nvfp4"
_SCHEMES = ("NVFP4A16", "NVFP4")


class Nvfp4Exporter:
    Options: type[BaseModel] = LayoutOptions

    def needs_statistics(self, recipe: Recipe) -> bool:
        return recipe.scheme == "NVFP4" or recipe.compensates or caches_fp8(recipe)

    def compensates(self, recipe: Recipe) -> bool:
        return recipe.compensates

    def prepare(
        self, source: Source, recipe: Recipe, statistics: Statistics, tokens: Tokens | None, progress: Progress
    ) -> None:
        """Finds what scales of caches are made from, where the recipe asks for them."""
        cache_scales.find_largest(source, recipe, statistics, tokens, progress)

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        if recipe.scheme not in _SCHEMES:
            raise UsageError(
                f"{recipe.name}: the nvfp4 exporter does not make {recipe.scheme}",
                f"set `scheme` to {' or '.join(_SCHEMES)}",
            )
        require_quantizable(source.architecture, recipe.name)
        selection = _select(source.architecture.linears, recipe)
        require_any(selection, source, recipe)
        layout = layout_of(recipe)
        drafted = drafts(source, selection.groups, lambda group: draft(source, group, recipe))
        return place(
            cache_scales.with_caches(source, recipe, drafted),
            variant=recipe.name,
            folder=f"{source.checkpoint.name}-{recipe.suffix}",
            texts=carried_texts(source)
            | layout.texts(source, recipe.scheme, selection.quantized, fp8_cache=caches_fp8(recipe)),
            notes=(*selection.notes, *not_run_note(source)),
        )

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        statistics = required(statistics, recipe.name)
        caches = cache_scales.cache_scales(source, recipe, statistics, layer)
        if recipe.scheme != "NVFP4":
            return Decided(caches)
        groups = _select([linear for linear in source.architecture.linears if linear.layer == layer], recipe).groups
        largest, notes = largest_inputs(statistics, [linear for group in groups for linear in group])
        scales = {_decision(name): input_global_scale(value) for name, value in largest.items()}
        return Decided(scales | caches, tuple(notes))

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        names = _names(unit)
        with turn(device()):  # first, as what is compensated has it when it asks for what others make
            made = once(inputs[0], ("nvfp4", *names), lambda: _nearest(inputs, names))  # by W4A16 and W4A4 alike
        return _outputs(made, names, decisions, recipe)

    def compensate(
        self,
        units: Sequence[Unit],
        inputs: Sequence[Sequence[torch.Tensor]],
        decisions: Sequence[Decisions],
        recipe: Recipe,
        known: Inputs,
    ) -> Sequence[Sequence[torch.Tensor]]:
        names = [_names(unit) for unit in units]
        linears = [[name.removesuffix(".weight") for name in of] for of in names]
        factors = [known.factor(of[0]) if known.one(of) else None for of in linears]
        targets: dict[int, torch.Tensor] = {}
        if recipe.scheme == "NVFP4":
            for n, of in enumerate(linears):
                moments = known.moments(of[0]) if factors[n] is not None else None
                if moments is not None:
                    scale = decisions[n][_decision(of[0])]
                    factors[n], targets[n] = for_rounded_inputs(moments, known.sample(of[0]), scale, inputs[n])

        def rounded(places: Sequence[int], factor: Factor) -> list[Sequence[torch.Tensor]]:
            groups, of = [inputs[n] for n in places], [names[n] for n in places]
            made = nvfp4_groups(groups, of, factor, [targets[n] for n in places] if targets else None)
            return [_outputs(packed, names[n], decisions[n], recipe) for packed, n in zip(made, places, strict=True)]

        return each(factors, lambda n: self.encode(units[n], inputs[n], decisions[n], recipe), rounded)


def _nearest(inputs: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[list[PackedWeight], torch.Tensor]:
    weights, global_scale = quantize_group([moved(weight, device()) for weight in inputs], names)
    return [PackedWeight(to_host(weight.packed), to_host(weight.scale)) for weight in weights], global_scale


def _names(unit: Unit) -> list[str]:
    return [part.name for part in unit.inputs]


def _outputs(
    made: tuple[Sequence[PackedWeight], torch.Tensor], names: Sequence[str], decisions: Decisions, recipe: Recipe
) -> list[torch.Tensor]:
    """Of each Linear the weight, its scales, and the global scales."""
    weights, global_scale = made
    reciprocal = layout_name(recipe) == "modelopt"
    outputs = []
    for weight, name in zip(weights, names, strict=True):
        scales = [global_scale]
        if recipe.scheme == "NVFP4":
            scales.append(decisions[_decision(name.removesuffix(".weight"))])
        outputs += [weight.packed, weight.scale, *(scale.reciprocal() if reciprocal else scale for scale in scales)]
    return outputs


def _decision(linear: str) -> str:
    return f"{linear}.{compressed_tensors.INPUT_GLOBAL_SCALE}"


def _select(linears: Sequence[Linear], recipe: Recipe) -> Selection:
    return select(linears, recipe, misfit)


def misfit(linear: Linear) -> str:
    return f"{GROUP} does not divide its input channels" if linear.in_features % GROUP else ""


def draft(source: Source, group: tuple[Linear, ...], recipe: Recipe) -> Draft:
    """Outputs in the order of `encode`: of each Linear the weight, its scales, and the global scales."""
    layout = layout_of(recipe)
    calibrated = recipe.scheme == "NVFP4"
    outputs = []
    for linear in group:
        rows, columns = linear.out_features, linear.in_features
        described: list[tuple[str, tuple[int, ...]]] = [
            ("U8", (rows, columns // 2)),
            ("F8_E4M3", (rows, columns // GROUP)),
        ]
        described += [("F32", layout.GLOBAL_SHAPE)] * (2 if calibrated else 1)
        names = layout.NVFP4_TENSORS[: len(described)]
        outputs += [DraftTensor(f"{linear.name}.{n}", *what) for n, what in zip(names, described, strict=True)]
    inputs = tuple(whole(source.checkpoint.tensors[linear.weight]) for linear in group)
    return Draft(ENCODING, inputs, tuple(outputs), group[0].layer if calibrated else None)


EXPORTER = Nvfp4Exporter()
