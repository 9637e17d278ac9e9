"""NVFP4 or INT4 with FP8 or BF16 for what suffers most, to a budget: compressed-tensors' layout with several groups, or
ModelOpt's with an entry for every module.

What engines fuse, and all experts of a layer, have one type. Four bits leave inputs in 16 bits (W4A16); FP8 rounds them
token by token, or in ModelOpt's layout by fixed scales, as the formats by themselves do. INT4 is rounded without AWQ's
search.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from pydantic import BaseModel

from exporters import cache_scales, fp8
from exporters.formats.layouts import LayoutOptions, layout_name
from exporters.mix.choose import Option
from exporters.mix.choose import Options as Offered
from exporters.mix.fit import fit
from exporters.mix.folder_types import (
    BASES,
    MAKERS,
    PLAIN,
    Group,
    Plain,
    as_recipe,
    higher,
    kinds_of,
    recipe_of,
    texts_of,
)
from exporters.mix.prepare import prepared
from exporters.mix.prices import part_name, prices
from exporters.protocol import Decided, Decisions, Tokens
from exporters.rounding.inputs import Inputs
from exporters.selection import Selection, drafts, not_run_note, require_any, select, together
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import Draft, carried_texts, place
from sixfold.errors import UsageError
from sixfold.model.architecture import Linear, require_quantizable
from sixfold.model.source import Source
from sixfold.name_lists import by_pattern
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.damages import damages_of
from sixfold.statistics.statistics import Statistics

_PRIOR = {"FP8_DYNAMIC": 0.1, "FP8": 0.1, PLAIN: 0.0}
"""Damage of a weight before anything is known of it, as a part of what four bits do."""


class MixedExporter:
    Options: type[BaseModel] = LayoutOptions

    def needs_statistics(self, recipe: Recipe) -> bool:
        return True

    def compensates(self, recipe: Recipe) -> bool:
        return recipe.compensates

    def prepare(
        self, source: Source, recipe: Recipe, statistics: Statistics, tokens: Tokens | None, progress: Progress
    ) -> None:
        """Foretells the damage that types are chosen by."""
        _check(recipe)
        every = {kind.damage: kind.rounding for kind in kinds_of(source, recipe).values()} | {PLAIN: Plain()}
        wanted = {part_name(linear): every for group in _select(source, recipe).groups for linear in group}
        prepared(source, statistics, wanted, tokens, progress)
        cache_scales.find_largest(source, recipe, statistics, tokens, progress)

    def offered(self, source: Source, recipe: Recipe, statistics: Statistics) -> Offered | None:
        """By decision: what engines give one type."""
        _check(recipe)
        damages = damages_of(source, statistics)
        decisions = _decisions(_select(source, recipe))
        parts = {part_name(linear) for decision in decisions.values() for linear in decision.linears}
        names = {name: kind.damage for name, kind in kinds_of(source, recipe).items()} | {PLAIN: PLAIN}
        if any(damages.lacking(part, names.values()) for part in parts):
            return None
        costs = prices(source, damages)

        def damage(decision: _Decision, kind: str) -> float:
            own = {part_name(linear) for linear in decision.linears}
            each = ((costs[part], damages.parts[part].damages[names[kind]]) for part in own)
            return sum(price * (d.compensated if recipe.compensates else d.nearest) for price, d in each)

        return _options(source, recipe, decisions, damage)

    def plan(self, source: Source, recipe: Recipe, statistics: Statistics | None) -> ExportPlan:
        _check(recipe)
        require_quantizable(source.architecture, recipe.name)
        selection = _select(source, recipe)
        require_any(selection, source, recipe)
        decisions = _decisions(selection)
        known = self.offered(source, recipe, statistics) if statistics is not None else None
        options, ready = known or _supposed(source, recipe, decisions), known is not None

        def lay(chosen: Mapping[str, str]) -> tuple[ExportPlan, int]:
            plan = _laid(source, recipe, selection, decisions, chosen, ready=ready)
            return plan, sum(file.nbytes for file in plan.files)

        weights = sum(prod(tensor.shape) for tensor in source.checkpoint.tensors.values())
        return fit(recipe, source.checkpoint.name, options, weights, lay, remedy="raise the budget, or keep less")

    def decide(self, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int) -> Decided:
        """The input scales of ModelOpt's FP8, and scales of caches; nothing else names a layer."""
        caches = cache_scales.cache_scales(source, recipe, statistics, layer)
        if layout_name(recipe) != "modelopt":
            return Decided(caches)
        decided = fp8.EXPORTER.decide(source, as_recipe(recipe, "FP8"), statistics, layer)
        return Decided({**decided.tensors, **caches}, decided.notes)

    def encode(
        self, unit: Unit, inputs: Sequence[torch.Tensor], decisions: Decisions, recipe: Recipe
    ) -> Sequence[torch.Tensor]:
        return MAKERS[unit.encoding].encode(unit, inputs, decisions, recipe_of(recipe, unit.encoding))

    def compensate(
        self,
        units: Sequence[Unit],
        inputs: Sequence[Sequence[torch.Tensor]],
        decisions: Sequence[Decisions],
        recipe: Recipe,
        known: Inputs,
    ) -> Sequence[Sequence[torch.Tensor]]:
        maker, own = MAKERS[units[0].encoding], recipe_of(recipe, units[0].encoding)
        if not maker.compensates(own):
            return [maker.encode(*each, own) for each in zip(units, inputs, decisions, strict=True)]
        return maker.compensate(units, inputs, decisions, own, known)


EXPORTER = MixedExporter()


@dataclass(frozen=True)
class _Decision:
    """Groups that engines give one type. linears: of all of them."""

    groups: tuple[tuple[Linear, ...], ...]

    @property
    def linears(self) -> tuple[Linear, ...]:
        return tuple(linear for group in self.groups for linear in group)

    @property
    def weights(self) -> int:
        return sum(linear.in_features * linear.out_features for linear in self.linears)


def _check(recipe: Recipe) -> None:
    bases = BASES[layout_name(recipe)]
    if recipe.scheme not in bases:
        raise UsageError(
            f"{recipe.name}: the mixed exporter does not make {recipe.scheme} in the layout of {layout_name(recipe)}",
            f"set `scheme: {' or '.join(bases)}`",
        )
    if recipe.budget is None:
        raise UsageError(f"{recipe.name}: a mix needs a budget", "set budget.times, budget.bits or budget.bytes")
    allowed = (recipe.scheme, *higher(recipe))
    if unknown := [name for name in recipe.budget.types if name not in allowed]:
        raise UsageError(
            f"{recipe.name}: budget.types has {', '.join(unknown)}, which this mix may not have",
            f"choose from {', '.join(allowed)}",
        )


def _select(source: Source, recipe: Recipe) -> Selection:
    return select(source.architecture.linears, recipe, kinds_of(source, recipe)[recipe.scheme].misfit)


def _decisions(selection: Selection) -> dict[str, _Decision]:
    found: dict[str, list[tuple[Linear, ...]]] = {}
    for group in selection.groups:
        found.setdefault(together(group[0]), []).append(group)
    return {name: _Decision(tuple(groups)) for name, groups in found.items()}


def _types(recipe: Recipe) -> tuple[str, ...]:
    assert recipe.budget is not None  # checked
    return recipe.budget.types or (recipe.scheme, *higher(recipe))


def _supposed(source: Source, recipe: Recipe, decisions: Mapping[str, _Decision]) -> Offered:
    return _options(source, recipe, decisions, lambda decision, kind: _PRIOR.get(kind, 1.0) * decision.weights)


def _options(
    source: Source,
    recipe: Recipe,
    decisions: Mapping[str, _Decision],
    damage: Callable[[_Decision, str], float],
) -> dict[str, dict[str, Option]]:
    known = kinds_of(source, recipe)

    def nbytes(decision: _Decision, kind: str) -> int:
        if kind == PLAIN:
            return 2 * decision.weights
        drafted = (draft for group in decision.groups for draft in known[kind].drafts(group))
        return sum(out.nbytes for draft in drafted for out in draft.outputs)

    return {
        name: {kind: Option(nbytes(decision, kind), damage(decision, kind)) for kind in _types(recipe)}
        for name, decision in decisions.items()
    }


def _laid(
    source: Source,
    recipe: Recipe,
    selection: Selection,
    decisions: Mapping[str, _Decision],
    chosen: Mapping[str, str],
    *,
    ready: bool,
) -> ExportPlan:
    known = kinds_of(source, recipe)
    kinds = {linear.name: chosen[name] for name, decision in decisions.items() for linear in decision.linears}
    quantized = {name: kind for name, kind in kinds.items() if kind != PLAIN}
    made: dict[Group, Draft] = {}
    for group in selection.groups:
        kind = kinds[group[0].name]
        drafted = [] if kind == PLAIN else known[kind].drafts(group)
        made |= zip([group] if len(drafted) == 1 else [(linear,) for linear in group], drafted, strict=bool(drafted))
    return place(
        cache_scales.with_caches(source, recipe, drafts(source, list(made), made.__getitem__)),
        variant=recipe.name,
        folder=f"{source.checkpoint.name}-{recipe.suffix}",
        texts=carried_texts(source) | texts_of(source, recipe, quantized),
        notes=(*_notes(kinds, recipe, ready=ready), *selection.notes, *not_run_note(source)),
    )


def _notes(kinds: Mapping[str, str], recipe: Recipe, *, ready: bool) -> list[str]:
    raised = {kind: [name for name, held in kinds.items() if held == kind] for kind in higher(recipe)}
    found = [f"in {kind}: {by_pattern(names)}" for kind, names in raised.items() if names]
    mix = "; ".join(found) or f"all in {recipe.scheme}"
    if ready:
        return [f"types were chosen by the damage that the calibration foretells; {mix}"]
    return [f"types are chosen once there are statistics, to the same budget; {mix}"]
