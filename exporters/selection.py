"""Which Linears an exporter quantizes: the architecture's list, less what the recipe keeps and what does not fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sixfold.artifact.safetensors_layout import Draft, kept_draft
from sixfold.boundary.patterns import pattern
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.model.source import Source
from sixfold.name_lists import by_layer, by_pattern
from sixfold.recipes.recipe import Recipe

KEPT_ROLES: Mapping[str, frozenset[str]] = {
    "FP8": frozenset(),
    "NVFP4": frozenset({"mixer"}),
    "W4A16": frozenset({"mixer"}),
}
"""Beginning of a scheme -> roles that stay in BF16 beside those that no format quantizes (sixfold.model.roles).

As in NVIDIA's releases of hybrid models: what a delta net or Mamba layer reads and gives is FP8 where a release is FP8
or mixed (Qwen3.6-35B-A3B-NVFP4), and in BF16 where the rest is NVFP4 (Qwen3.5-122B-A10B-NVFP4); 4-bit weights of such
layers are accumulated in their state over the whole sequence. Attention, which most of those releases keep too, is
the recipe's choice (`keep`): docs/rounding.md says what it costs and brings.
"""


@dataclass(frozen=True)
class Selection:
    """groups: what is quantized, in source order, each with the Linears that engines fuse it with (alone where none).
    notes: a sentence for every kind of Linear that stays as it is, and why."""

    groups: tuple[tuple[Linear, ...], ...]
    notes: tuple[str, ...]

    @cached_property
    def quantized(self) -> frozenset[str]:
        return frozenset(linear.name for group in self.groups for linear in group)


def select(linears: Sequence[Linear], recipe: Recipe, misfit: Callable[[Linear], str]) -> Selection:
    """linears: all of a model's, or of a layer's. misfit: why the format cannot hold a Linear, "" where it can.

    Engines fuse some Linears and treat the experts of a layer as one: where one of them is kept, so are the others.
    Raises SixfoldError where something does not fit and the recipe says to fail.
    """
    reasons: dict[str, str] = {}
    kept = next((roles for scheme, roles in KEPT_ROLES.items() if recipe.scheme.startswith(scheme)), frozenset())
    for linear in linears:
        if not linear.quantizable:
            reasons[linear.name] = "never quantized"
        elif linear.role in kept:
            reasons[linear.name] = f"{recipe.scheme} leaves out each {linear.role}, as NVIDIA's releases do"
        elif any(pattern(text).search(linear.name) for text in recipe.keep):
            reasons[linear.name] = "kept by the recipe"
        elif why := misfit(linear):
            if recipe.indivisible == "fail":
                raise SixfoldError(
                    f"{recipe.name}: {linear.name} is {linear.out_features} x {linear.in_features}, and {why}",
                    "set `indivisible: keep` to leave such Linears in BF16, or `keep` them by name",
                )
            reasons[linear.name] = why
    affected = {together(linear) for linear in linears if linear.name in reasons}
    for linear in linears:
        if linear.name not in reasons and together(linear) in affected:
            reasons[linear.name] = "engines load it together with one that is kept"
    groups: dict[str, list[Linear]] = {}
    by_name = {linear.name: linear for linear in linears}
    for linear in linears:
        if linear.name not in reasons:
            first = linear.fused[0] if linear.fused else linear.name
            groups.setdefault(first, [by_name[name] for name in linear.fused] or [linear])
    return Selection(tuple(tuple(group) for group in groups.values()), _notes(reasons))


def require_any(selection: Selection, source: Source, recipe: Recipe) -> None:
    """Raises SixfoldError where the recipe leaves nothing to quantize: the artifact would be another BF16 variant."""
    if not selection.groups:
        raise SixfoldError(
            f"{recipe.name} would quantize nothing of {source.checkpoint.name}: {'; '.join(selection.notes)}",
            "export the bf16 or the fp8 variant",
        )


def drafts(
    source: Source, groups: Sequence[tuple[Linear, ...]], make: Callable[[tuple[Linear, ...]], Draft]
) -> list[Draft]:
    """A draft for every group, where the first of its weights is in the source, and for every other tensor."""
    group_of = {linear.weight: group for group in groups for linear in group}
    made: set[tuple[Linear, ...]] = set()
    found = []
    for tensor in source.checkpoint.tensors.values():
        group = group_of.get(tensor.name)
        if group is None:
            found.append(kept_draft(source, tensor))
        elif group not in made:
            made.add(group)
            found.append(make(group))
    return found


def together(linear: Linear) -> str:
    """The same for all Linears that engines give one quantization scheme."""
    if linear.expert is not None:
        return linear.module
    return linear.fused[0] if linear.fused else linear.name


def _notes(reasons: dict[str, str]) -> tuple[str, ...]:
    """One sentence a reason."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return tuple(f"in BF16 ({why}): {by_pattern(of_reason)}" for why, of_reason in names.items())


def not_run_note(source: Source) -> tuple[str, ...]:
    """What is done with tensors that transformers does not run; () where there are none."""
    names = source.architecture.not_run
    if not names:
        return ()
    return (f"kept as they are (transformers does not run them, so there are no statistics): {by_layer(names)}",)
