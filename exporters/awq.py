"""AWQ: 4-bit weights in groups with zero points, scaled by an activation-aware search (W4A16).

To nearest, weights are rounded as `W * in / out` (see exporters/smoothing/awq_search.py), the norms and biases
before them are divided, and unquantized readers of a scaled norm multiplied, so that the model is unchanged but for
the rounding. With errors compensated nothing is scaled: the inputs' second moments take the place of the search.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from exporters.formats import autoawq
from exporters.formats import pack_quantized as pack_format
from exporters.formats.compressed_tensors import ignore_list
from exporters.formats.module_names import unquantized_modules
from exporters.numerics.awq_candidates import grid
from exporters.numerics.awq_packing import BITS, PER_WORD, Quantized, pack_gemm, pack_quantized, quantize
from exporters.numerics.compensated import int4_groups
from exporters.protocol import Decided, Decisions
from exporters.rounding.compensated_where_known import each
from exporters.rounding.device import at_device, device, sent_home
from exporters.rounding.factor import Factor
from exporters.rounding.inputs import Inputs
from exporters.selection import not_run_note, require_any, select
from exporters.smoothing.awq_search import decide_layer, decided
from exporters.smoothing.scale_search import Search
from exporters.smoothing.smoothing_groups import SmoothingGroup, misfit_of, smoothing_groups
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import Draft, DraftTensor, carried_texts, config_text, kept_draft, place, whole
from sixfold.boundary.patterns import pattern
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear, require_quantizable
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.starved_experts import note
from sixfold.statistics.statistics import Statistics, required

QUANTIZED = "awq"
RESCALED = "awq-rescale"
RESCALED_ONE_PLUS = "awq-rescale-one-plus"
"""Encodings: rounded to 4 bits; divided or multiplied by decided scales; the same for a norm that uses 1 + weight."""

_GROUP_SIZES = (128, 64, 32)
"""What AutoAWQ's readers have kernels for, largest first."""

_SCALES = {"autoawq": 2, "pack-quantized": 1}
"""Which of a Linear's outputs holds the scales, by layout: _SCALE_BYTES for each group of a row."""
_SCALE_BYTES = 2

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Options(BaseModel):
    """layout: AutoAWQ's, or compressed-tensors'. grid, duo_scaling: as AWQModifier's n_grid and duo_scaling.

    group_size: the largest that groups may have; 64 or 32 where it does not divide the rows of every Linear, since
    AutoAWQ's config has one size for the whole model (see `fitting_group`). clip: whether a group's range may be
    narrower than its extremes, where that hurts its inputs less.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: Literal["autoawq", "pack-quantized"] = "autoawq"
    group_size: Literal[32, 64, 128] = 128
    grid: int = Field(20, ge=6)
    duo_scaling: bool | Literal["both"] = True
    clip: bool = True


class AwqExporter:
    Options: type[BaseModel] = Options

    def needs_statistics(self, recipe: Recipe) -> bool:
        return True

    def compensates(self, recipe: Recipe) -> bool:
        return recipe.compensates

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        require_quantizable(source.architecture, recipe.name)
        options = options_of(source, recipe)
        linears = source.architecture.linears
        selection = select(linears, recipe, misfit_of(options.group_size))
        require_any(selection, source, recipe)
        groups = smoothing_groups(source, linears, selection.quantized)
        by_weight = {linear.weight: linear for linear in linears}
        rescaled = {} if self.compensates(recipe) else _rescaled(source, groups, selection.quantized)
        drafts = []
        for tensor in source.checkpoint.tensors.values():
            linear = by_weight.get(tensor.name)
            if linear is not None and linear.name in selection.quantized:
                drafts.append(Draft(QUANTIZED, (whole(tensor),), outputs_of(linear, options), linear.layer))
            elif tensor.name in rescaled:
                encoding, layer = rescaled[tensor.name]
                drafts.append(Draft(encoding, (whole(tensor),), kept_draft(source, tensor).outputs, layer))
            else:
                drafts.append(kept_draft(source, tensor))
        return place(
            drafts,
            variant=recipe.name,
            folder=f"{source.checkpoint.name}-{recipe.suffix}",
            texts={
                "config.json": config_text(source, _quantization_config(source, options, selection.quantized)),
                **carried_texts(source),
            },
            notes=(
                *_smaller_groups(source, recipe, options),
                *selection.notes,
                *not_run_note(source),
                *(() if self.compensates(recipe) else _left_alone(source, groups, selection.quantized)),
            ),
        )

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        statistics = required(statistics, recipe.name)
        if self.compensates(recipe):
            # No scales are moved: on top of them compensation gains nothing that it does not gain without.
            return Decided({}, note(statistics, layer))
        options = options_of(source, recipe)
        linears = [linear for linear in source.architecture.linears if linear.layer == layer]
        quantized = select(linears, recipe, misfit_of(options.group_size)).quantized
        groups = smoothing_groups(source, linears, quantized)
        tensors = source.checkpoint.tensors
        stored = {
            name: _DTYPES[kept_draft(source, tensors[name]).outputs[0].dtype]
            for name in _rescaled(source, groups, quantized)
        }
        points = grid(options.grid, options.duo_scaling)
        search = Search(
            source.checkpoint, statistics, quantized, stored, points, options.group_size, options.clip, {}, device()
        )
        return decide_layer(search, linears, groups)

    def searched(self, source: Source, recipe: Recipe, layer: int) -> tuple[TensorSlice, ...]:
        """The weights that are rounded, and what scales are moved into."""
        if self.compensates(recipe):
            return ()
        linears = [linear for linear in source.architecture.linears if linear.layer == layer]
        quantized = select(linears, recipe, misfit_of(options_of(source, recipe).group_size)).quantized
        groups = smoothing_groups(source, linears, quantized)
        names = [linear.weight for linear in linears if linear.name in quantized]
        names += [name for group in groups for name in (group.source + ".weight", *(r.weight for r in group.readers))]
        return tuple(whole(source.checkpoint.tensors[name]) for name in dict.fromkeys(names))

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        (tensor,) = inputs
        name = unit.inputs[0].name
        module = name.rpartition(".")[0]
        columns, rows, importance = (decided(decisions, module, side) for side in ("in", "out", "importance"))
        if unit.encoding != QUANTIZED:
            dtype = torch.float32 if unit.outputs[0].nbytes == 4 * tensor.numel() else torch.bfloat16
            return [rescale(tensor, columns, rows, one_plus=unit.encoding == RESCALED_ONE_PLUS).to(dtype)]
        layout = Options.model_validate(recipe.options).layout
        with _named(name):
            given = (columns, rows, importance)
            group = _group_size(unit, tensor, layout)
            return at_device(inputs, lambda weights: _packed(_nearest(weights[0], group, *given), layout))

    def compensate(
        self,
        units: Sequence[Unit],
        inputs: Sequence[Sequence[torch.Tensor]],
        decisions: Sequence[Decisions],
        recipe: Recipe,
        known: Inputs,
    ) -> Sequence[Sequence[torch.Tensor]]:
        names = [unit.inputs[0].name for unit in units]
        layout = Options.model_validate(recipe.options).layout

        def rounded(places: Sequence[int], factor: Factor) -> list[Sequence[torch.Tensor]]:
            weights = [inputs[n][0] for n in places]
            group = _group_size(units[places[0]], weights[0], layout)
            made = int4_groups(weights, [names[n] for n in places], group, factor)
            return [[sent_home(part) for part in _packed(quantized, layout)] for quantized in made]

        of = [
            known.factor(n.removesuffix(".weight")) if u.encoding == QUANTIZED else None
            for n, u in zip(names, units, strict=True)
        ]
        return each(of, lambda n: self.encode(units[n], inputs[n], decisions[n], recipe), rounded)


def _nearest(weight: torch.Tensor, group: int, *given: torch.Tensor | None) -> Quantized:
    """given: as awq_packing.quantize takes them, but for their device."""
    return quantize(weight, group, *(None if of is None else of.to(weight.device) for of in given))


def _group_size(unit: Unit, weight: torch.Tensor, layout: str) -> int:
    """Input channels that share a scale, as planned."""
    return weight.numel() * _SCALE_BYTES // unit.outputs[_SCALES[layout]].nbytes


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SixfoldError(f"{name}: {error}", "check the source checkpoint, or `keep` this Linear") from error


def _packed(quantized: Quantized, layout: str) -> Sequence[torch.Tensor]:
    return pack_gemm(quantized) if layout == "autoawq" else pack_quantized(quantized)


def rescale(
    tensor: torch.Tensor, columns: torch.Tensor | None, rows: torch.Tensor | None, *, one_plus: bool = False
) -> torch.Tensor:
    """An unquantized tensor next to quantized ones: a norm [channels], bias [out] or weight [out, in]; float32."""
    value = tensor.to(torch.float32)
    if columns is not None and value.dim() == 2:
        value = value * columns
    if rows is not None:
        rows = rows[:, None] if value.dim() == 2 else rows
        value = (1 + value) / rows - 1 if one_plus else value / rows
    return value


def fitting_group(linears: Sequence[Linear], recipe: Recipe, largest: int) -> int:
    """The largest group size, `largest` at most, that divides the rows of every Linear that 32 divides and the recipe
    does not keep; `largest` where the recipe has an export stop at what it does not divide."""
    sizes = [size for size in _GROUP_SIZES if size <= largest]
    rows = {
        li.in_features for li in linears if li.quantizable and not any(pattern(k).search(li.name) for k in recipe.keep)
    }
    rows = {channels for channels in rows if channels % sizes[-1] == 0}
    if recipe.indivisible == "fail":
        return largest
    return next(size for size in sizes if all(channels % size == 0 for channels in rows))


def options_of(source: Source, recipe: Recipe) -> Options:
    """With the size that groups have in this model."""
    options = Options.model_validate(recipe.options)
    group = fitting_group(source.architecture.linears, recipe, options.group_size)
    return options.model_copy(update={"group_size": group})


def _smaller_groups(source: Source, recipe: Recipe, options: Options) -> tuple[str, ...]:
    asked = Options.model_validate(recipe.options).group_size
    if options.group_size == asked:
        return ()
    rows = sorted({li.in_features for li in source.architecture.linears if li.quantizable and li.in_features % asked})
    return (f"groups of {options.group_size}, since {asked} does not divide rows of {', '.join(map(str, rows))}",)


def outputs_of(linear: Linear, options: Options) -> tuple[DraftTensor, ...]:
    """What `encode` returns for a quantized Linear, in its order."""
    out_features, in_features = linear.out_features, linear.in_features
    groups = in_features // options.group_size
    described: tuple[tuple[str, str, tuple[int, ...]], ...]
    if options.layout == "autoawq":
        described = (
            (autoawq.QWEIGHT, "I32", (in_features, out_features // PER_WORD)),
            (autoawq.QZEROS, "I32", (groups, out_features // PER_WORD)),
            (autoawq.SCALES, "F16", (groups, out_features)),
        )
    else:
        described = (
            (pack_format.WEIGHT_PACKED, "I32", (out_features, in_features // PER_WORD)),
            (pack_format.WEIGHT_SCALE, "BF16", (out_features, groups)),
            (pack_format.WEIGHT_ZERO_POINT, "I32", (out_features // PER_WORD, groups)),
            (pack_format.WEIGHT_SHAPE, "I64", (2,)),
        )
    return tuple(DraftTensor(f"{linear.name}.{part}", dtype, shape) for part, dtype, shape in described)


def _rescaled(
    source: Source, groups: Sequence[SmoothingGroup], quantized: frozenset[str]
) -> dict[str, tuple[str, int | None]]:
    """Unquantized tensors that the groups change: name -> (encoding, layer)."""
    found: dict[str, tuple[str, int | None]] = {}
    for group in groups:
        layer = group.readers[0].layer
        found[group.source + ".weight"] = (RESCALED_ONE_PLUS if group.one_plus else RESCALED, layer)
        found[group.source + ".bias"] = (RESCALED, layer)
        for reader in group.readers:
            found.setdefault(reader.weight, (RESCALED, layer))
    weights = {name + ".weight" for name in quantized}
    return {name: how for name, how in found.items() if name in source.checkpoint.tensors and name not in weights}


def _quantization_config(source: Source, options: Options, quantized: frozenset[str]) -> dict[str, Any]:
    linears = source.architecture.linears
    if options.layout == pack_format.FORMAT:
        ignore = ignore_list(source.architecture, quantized)
        return pack_format.quantization_config(BITS, options.group_size, ignore)
    entries = unquantized_modules(linears, quantized, source.architecture.not_run)
    autoawq.check_not_converted(entries, linears, quantized)
    return autoawq.quantization_config(BITS, options.group_size, entries)


def _left_alone(source: Source, groups: Sequence[SmoothingGroup], quantized: frozenset[str]) -> tuple[str, ...]:
    """A note where norms with quantized readers stay as they are, since not all that read them can be rescaled."""
    scaled = {group.source + ".weight" for group in groups}
    alone = [
        norm.weight
        for norm in source.architecture.norms
        if norm.weight not in scaled and any(reader in quantized for reader in norm.readers)
    ]
    if not alone:
        return ()
    return (f"rounded without a search, since not every reader of their norm can be rescaled: {', '.join(alone)}",)


EXPORTER = AwqExporter()
