"""The types of a GGUF file's tensors, chosen to a budget: what exporters/gguf.py takes in place of a preset's rules."""

from collections import Counter
from collections.abc import Callable, Mapping
from math import prod

from gguf import GGMLQuantizationType as Type

from exporters.ggml.header.metadata import padded
from exporters.ggml.kernels import row_bytes
from exporters.ggml.tensors import Tensor
from exporters.ggml.type_mix import Choice, file_order, stays_float32
from exporters.mix.choose import Option, Options
from exporters.mix.estimate import Rounding
from exporters.mix.fit import fit
from exporters.mix.ggml_types import ALLOWED, TYPES, bits, fitting, roundings
from exporters.mix.prices import part_name, prices
from sixfold.errors import UsageError
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.damages import damages_of
from sixfold.statistics.statistics import Statistics

AUTO = "AUTO"
"""The scheme of recipes whose types are chosen."""

Kept = Mapping[str, Type]
"""Tensors that the recipe keeps, by GGUF name, and in what."""
Laid = Callable[[Mapping[str, Choice]], int]
"""Bytes of all files for a choice."""


def check_budget(recipe: Recipe) -> None:
    """Raises UsageError where scheme and budget do not go together, or a type is none that a mix may have."""
    if recipe.scheme != AUTO:
        if recipe.budget is not None:
            raise UsageError(
                f"{recipe.name}: a budget is for mixes, and {recipe.scheme} is one type of mix already",
                f"set `scheme: {AUTO}`, or leave the budget out",
            )
        return
    if recipe.budget is None:
        raise UsageError(f"{recipe.name}: scheme {AUTO} needs a budget", "set budget.bits, budget.bytes or budget.fits")
    if unknown := [name for name in recipe.budget.types if name not in ALLOWED]:
        raise UsageError(
            f"{recipe.name}: budget.types has {', '.join(unknown)}, which no mix may have",
            f"choose from {', '.join(ALLOWED)}",
        )


def wanted_roundings(
    source: Source, recipe: Recipe, tensors: Mapping[str, Tensor], kept: Kept
) -> dict[str, Mapping[str, Rounding]]:
    """By part of the model, those that the choice needs to know the damage of."""
    parts = _parts(source)
    found: dict[str, Mapping[str, Rounding]] = {}
    for name, tensor in tensors.items():
        if _is_chosen(name, tensor, kept):
            part = _part(tensor, parts)  # the halves of kv_b_proj are of one
            found[part] = {**found.get(part, {}), **roundings(_types(recipe, tensor))}
    return found


def mixed_types(
    source: Source,
    recipe: Recipe,
    statistics: Statistics | None,
    tensors: Mapping[str, Tensor],
    kept: Kept,
    laid: Laid,
) -> tuple[dict[str, Choice], tuple[str, ...]]:
    """The type of every tensor by GGUF name, in file order, and what a reader should know of the choice.

    laid: how large the files of a choice are; at most the budget. Without statistics, or before damage was foretold
    from them, every weight is taken as equally sensitive, and a note says so. Raises SixfoldError where the budget is
    too small.
    """
    known = offered_types(source, recipe, statistics, tensors, kept) if statistics is not None else None
    options, ready = known or _supposed(recipe, tensors, kept), known is not None
    plain = {
        name: Type.F32 if stays_float32(name, tensor.shape) else kept.get(name, Type.F32)
        for name, tensor in tensors.items()
        if name not in options
    }

    def choices(picked: Mapping[str, str]) -> dict[str, Choice]:
        return {name: Choice(plain[name] if name in plain else Type[picked[name]]) for name in file_order(tensors)}

    def lay(picked: Mapping[str, str]) -> tuple[dict[str, Choice], int]:
        found = choices(picked)
        return found, laid(found)

    weights = sum(prod(tensor.shape) for tensor in tensors.values())
    remedy = "raise the budget, add smaller types to budget.types, or prune more experts"
    found = fit(recipe, source.checkpoint.name, options, weights, lay, remedy=remedy)
    return found, tuple(_notes(found, tensors, ready=ready))


def _parts(source: Source) -> dict[str, str]:
    """Name of every Linear's weight -> the part that it belongs to."""
    return {linear.weight: part_name(linear) for linear in source.architecture.linears}


def _part(tensor: Tensor, parts: Mapping[str, str]) -> str:
    first = tensor.inputs[0]
    return parts.get(first, first.removesuffix(".weight"))


def _is_chosen(name: str, tensor: Tensor, kept: Kept) -> bool:
    return bool(tensor.inputs) and name not in kept and not stays_float32(name, tensor.shape)


def _types(recipe: Recipe, tensor: Tensor) -> tuple[str, ...]:
    assert recipe.budget is not None  # checked
    return fitting(recipe.budget.types or TYPES, tensor.shape[-1])


def offered_types(
    source: Source, recipe: Recipe, statistics: Statistics, tensors: Mapping[str, Tensor], kept: Kept
) -> Options | None:
    """By GGUF name; None where damage was not foretold yet."""
    known = damages_of(source, statistics)
    wanted = wanted_roundings(source, recipe, tensors, kept)
    if any(known.lacking(part, kinds) for part, kinds in wanted.items()):
        return None
    parts, costs = _parts(source), prices(source, known)
    halves = Counter(_part(tensor, parts) for name, tensor in tensors.items() if _is_chosen(name, tensor, kept))

    def damage(tensor: Tensor, kind: str) -> float:
        part = _part(tensor, parts)
        found = known.parts[part].damages[kind]
        return costs[part] * (found.compensated if recipe.compensates else found.nearest) / halves[part]

    return _options(recipe, tensors, kept, damage)


def _supposed(recipe: Recipe, tensors: Mapping[str, Tensor], kept: Kept) -> Options:
    return _options(recipe, tensors, kept, lambda tensor, kind: prod(tensor.shape) * 4.0 ** -bits(kind))


def _options(
    recipe: Recipe, tensors: Mapping[str, Tensor], kept: Kept, damage: Callable[[Tensor, str], float]
) -> dict[str, dict[str, Option]]:
    return {
        name: {kind: Option(_nbytes(tensor, Type[kind]), damage(tensor, kind)) for kind in _types(recipe, tensor)}
        for name, tensor in tensors.items()
        if _is_chosen(name, tensor, kept)
    }


def _nbytes(tensor: Tensor, qtype: Type) -> int:
    """In the file, with what pads it."""
    return padded(prod(tensor.shape[:-1]) * row_bytes(qtype, tensor.shape[-1]))


def _notes(choices: Mapping[str, Choice], tensors: Mapping[str, Tensor], *, ready: bool) -> list[str]:
    weights: dict[str, int] = {}
    for name, choice in choices.items():
        weights[choice.qtype.name] = weights.get(choice.qtype.name, 0) + prod(tensors[name].shape)
    total = sum(weights.values())
    held = sum(_nbytes(tensors[name], choice.qtype) for name, choice in choices.items())
    mix = ", ".join(f"{share / total:.1%} {kind}" for kind, share in sorted(weights.items(), key=lambda each: -each[1]))
    note = f"{8 * held / total:.2f} bits a weight, by weights: {mix}"
    if ready:
        return [f"{note}; each tensor's type was chosen by the damage that the calibration foretells"]
    return [f"{note}; types are chosen once there are statistics, to the same budget"]
