"""MXFP4: experts as E2M1 weights in groups of 32 under powers of two, all else in BF16, as gpt-oss is published."""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict

from exporters.formats import compressed_tensors
from exporters.numerics.compensated import mxfp4_weights
from exporters.numerics.mxfp4 import GROUP, quantize
from exporters.numerics.nvfp4 import PackedWeight
from exporters.protocol import Decided, Decisions
from exporters.rounding.compensated_where_known import each
from exporters.rounding.device import at_device
from exporters.rounding.factor import Factor
from exporters.rounding.inputs import Inputs
from exporters.selection import drafts, not_run_note, require_any, select
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import Draft, DraftTensor, carried_texts, place, whole
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.architecture import Linear, require_quantizable
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics

ENCODING = "mxfp4"
_SCHEME = "MXFP4A16"


class Options(BaseModel):
    """None: the layout is compressed-tensors'."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mxfp4Exporter:
    Options: type[BaseModel] = Options

    def needs_statistics(self, recipe: Recipe) -> bool:
        return recipe.compensates

    def compensates(self, recipe: Recipe) -> bool:
        return recipe.compensates

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        if recipe.scheme != _SCHEME:
            raise UsageError(
                f"{recipe.name}: the mxfp4 exporter does not make {recipe.scheme}", f"set `scheme` to {_SCHEME}"
            )
        require_quantizable(source.architecture, recipe.name)
        experts = [linear for linear in source.architecture.linears if linear.expert is not None]
        if not experts:
            raise SixfoldError(
                f"{recipe.name} is for experts, and {source.checkpoint.name} has none",
                "export the nvfp4 or the awq variant",
            )
        selection = select(experts, recipe, _misfit)
        require_any(selection, source, recipe)
        groups = tuple((linear,) for group in selection.groups for linear in group)  # no scale is shared
        return place(
            drafts(source, groups, lambda group: _draft(source, group[0])),
            variant=recipe.name,
            folder=f"{source.checkpoint.name}-{recipe.suffix}",
            texts=carried_texts(source) | compressed_tensors.texts(source, recipe.scheme, selection.quantized),
            notes=("in BF16: all but the experts", *selection.notes, *not_run_note(source)),
        )

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        """Never called: no unit names a layer."""
        return Decided({})

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        return at_device(inputs, lambda weights: _outputs(quantize(weights[0], unit.inputs[0].name)))

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
            made = mxfp4_weights([inputs[n][0] for n in places], [names[n] for n in places], factor)
            return [_outputs(weight) for weight in made]

        factors = [known.factor(name.removesuffix(".weight")) for name in names]
        return each(factors, lambda n: self.encode(units[n], inputs[n], decisions[n], recipe), rounded)


def _outputs(weight: PackedWeight) -> list[torch.Tensor]:
    return [weight.packed, weight.scale]


def _misfit(linear: Linear) -> str:
    return f"{GROUP} does not divide its input channels" if linear.in_features % GROUP else ""


def _draft(source: Source, linear: Linear) -> Draft:
    rows, columns = linear.out_features, linear.in_features
    outputs = (
        DraftTensor(f"{linear.name}.{compressed_tensors.WEIGHT_PACKED}", "U8", (rows, columns // 2)),
        DraftTensor(f"{linear.name}.{compressed_tensors.WEIGHT_SCALE}", "U8", (rows, columns // GROUP)),
    )
    return Draft(ENCODING, (whole(source.checkpoint.tensors[linear.weight]),), outputs, None)


EXPORTER = Mxfp4Exporter()
