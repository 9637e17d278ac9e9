"""Which Linears AWQ quantizes, and which scales can be moved between which weights without changing the model.

A *smoothing group* is something whose output channels can be divided by a scale, and all the Linears that read that
output, whose input channels are multiplied by it. Three kinds hold exactly:

- a norm and all its readers. Readers that stay unquantized (routers, a shared expert's gate, kept Linears) are part of
  it: their weights are multiplied too. Where something else reads the norm, it is left alone;
- the up and the down projection of a gated MLP or expert, since down reads act(gate) * up;
- the v and the o projection of attention whose heads are not shared (no grouped queries, no latent attention), since
  attention averages values.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporters.numerics.awq_packing import PER_WORD
from sixfold.architecture import Architecture, Linear
from sixfold.checkpoint import Checkpoint
from sixfold.errors import SixfoldError
from sixfold.recipe import Recipe
from sixfold.source import Source

_GATED = (("gate", "up", "down"), ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_ATTENTION_PARTS = frozenset("q_proj k_proj v_proj o_proj q_norm k_norm q_layernorm k_layernorm rotary_emb".split())
"""What may be in an attention module whose values reach the o projection as they left the v projection."""
_CLAMPED_UP = "swiglu_limit"
_CLAMPED_V = "clip_qkv"
"""Config fields that say that a projection's output is clamped before it is used: a scale cannot pass through."""


@dataclass(frozen=True)
class Selection:
    """quantized: names. notes: what stays in BF16 for the recipe's or the format's sake, and why."""

    quantized: frozenset[str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SmoothingGroup:
    """source: module whose output is divided (a norm, an up or a v projection), on-disk name without ".weight".
    readers: Linears whose input channels are multiplied. one_plus: the source is a norm that multiplies by 1 + weight.
    """

    source: str
    readers: tuple[Linear, ...]
    one_plus: bool = False


def select(linears: Sequence[Linear], recipe: Recipe, group_size: int) -> Selection:
    """Decide for whole layers at a time (`linears` holds all of a layer's, or several layers').

    Engines fuse some Linears and treat the experts of a layer as one: where one is kept, so are the others.
    Raises SixfoldError where a size is indivisible and the recipe says to fail.
    """
    candidates = [linear for linear in linears if linear.quantizable and linear.layer is not None]
    named = {x.name for x in candidates if any(re.search(pattern, x.name) for pattern in recipe.keep)}
    indivisible = [x for x in candidates if x.in_features % group_size or x.out_features % PER_WORD]
    indivisible = [x for x in indivisible if x.name not in named]
    if indivisible and recipe.indivisible == "fail":
        first = indivisible[0]
        raise SixfoldError(
            f"{recipe.name}: {first.name} is {first.out_features} x {first.in_features}; AWQ needs input channels in"
            f" groups of {group_size} and output channels in groups of {PER_WORD}"
            f" ({len(indivisible)} Linears do not fit)",
            "set `indivisible: keep` to leave them in BF16, or `keep` them by name",
        )
    unfit = {linear.name for linear in indivisible}
    kept = named | unfit
    kept_layers = {x.layer for x in candidates if x.expert is not None and x.name in kept}
    widened = {
        x.name
        for x in candidates
        if x.name not in kept and (not kept.isdisjoint(x.fused) or (x.expert is not None and x.layer in kept_layers))
    }
    notes = (
        (named, "kept in BF16 by the recipe"),
        (unfit, f"kept in BF16, since {group_size} does not divide its input or {PER_WORD} its output channels"),
        (widened, "kept in BF16, since engines fuse it with one that is"),
    )
    return Selection(
        frozenset(x.name for x in candidates) - kept - widened,
        tuple(f"{_listed(sorted(names))}: {why}" for names, why in notes if names),
    )


def _listed(names: Sequence[str]) -> str:
    """Names with their numbers left out where that makes one of many: "model.layers.*.mlp.down_proj (12)"."""
    counts: dict[str, int] = {}
    for name in names:
        pattern = re.sub(r"\.\d+\.", ".*.", name)
        counts[pattern] = counts.get(pattern, 0) + 1
    return ", ".join(f"{pattern} ({count})" for pattern, count in counts.items())


def smoothing_groups(
    source: Source, linears: Sequence[Linear], quantized: frozenset[str]
) -> tuple[SmoothingGroup, ...]:
    """The groups among `linears` (all of one or more layers) that have a quantized reader, in source order."""
    by_name = {linear.name: linear for linear in linears}
    groups = _norm_groups(source.architecture, source.checkpoint.tensors, by_name)
    siblings: dict[str, dict[str, Linear]] = {}
    for linear in linears:
        parent, _, last = linear.name.rpartition(".")
        siblings.setdefault(parent, {})[linear.part if linear.expert is not None else last] = linear
    for parent, parts in siblings.items():
        groups += _up_to_down(parts, source.checkpoint.config)
        groups += _v_to_o(parent, parts, source.checkpoint)
    return tuple(g for g in groups if any(reader.name in quantized for reader in g.readers))


def _norm_groups(
    architecture: Architecture, tensors: Mapping[str, Any], by_name: Mapping[str, Linear]
) -> list[SmoothingGroup]:
    groups = []
    for norm in architecture.norms:
        if not norm.exact or not norm.readers or any(name not in by_name for name in norm.readers):
            continue
        readers = tuple(by_name[name] for name in norm.readers)
        channels = tensors[norm.weight].shape[0]
        if all(reader.role != "other" and reader.in_features == channels for reader in readers):
            groups.append(SmoothingGroup(norm.weight.removesuffix(".weight"), readers, norm.one_plus))
    return groups


def _up_to_down(parts: Mapping[str, Linear], config: Mapping[str, Any]) -> list[SmoothingGroup]:
    found = next((names for names in _GATED if all(name in parts for name in names)), None)
    if found is None or _setting(config, _CLAMPED_UP):
        return []
    up, down = parts[found[1]], parts[found[2]]
    return [SmoothingGroup(up.name, (down,))] if up.out_features == down.in_features and down.norm is None else []


def _v_to_o(parent: str, parts: Mapping[str, Linear], checkpoint: Checkpoint) -> list[SmoothingGroup]:
    v, o = parts.get("v_proj"), parts.get("o_proj")
    if v is None or o is None or v.out_features != o.in_features or o.norm is not None:
        return []
    inside = {name[len(parent) + 1 :].split(".")[0] for name in checkpoint.tensors if name.startswith(parent + ".")}
    if not inside <= _ATTENTION_PARTS or _setting(checkpoint.config, _CLAMPED_V):
        return []
    return [SmoothingGroup(v.name, (o,))]


def _setting(config: Mapping[str, Any], field: str) -> Any:
    nested = config.get("text_config") or {}
    return config.get(field) or nested.get(field)
