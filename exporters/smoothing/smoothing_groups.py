"""Which Linears AWQ can hold, and which scales can be moved between which weights without changing the model.

A *smoothing group* is something whose output channels can be divided by a scale, and all the Linears that read that
output, whose input channels are multiplied by it. Three kinds hold exactly:

- a norm and all its readers. Readers that stay unquantized (routers, a shared expert's gate, kept Linears) are part of
  it: their weights are multiplied too. Where something else reads the norm, it is left alone;
- the up and the down projection of a gated MLP or expert, since down reads act(gate) * up;
- the v and the o projection of attention whose heads are not shared (no grouped queries, no latent attention), since
  attention averages values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporters.numerics.awq_packing import PER_WORD
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.model.architecture import Architecture, Linear
from sixfold.model.source import Source

_GATED = (("gate", "up", "down"), ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_ATTENTION_PARTS = frozenset("q_proj k_proj v_proj o_proj q_norm k_norm q_layernorm k_layernorm rotary_emb".split())
"""What may be in an attention module whose values reach the o projection as they left the v projection."""
_CLAMPED_UP = "swiglu_limit"
_CLAMPED_V = "clip_qkv"
"""Config fields that say that a projection's output is clamped before it is used: a scale cannot pass through."""


@dataclass(frozen=True)
class SmoothingGroup:
    """source: module whose output is divided (a norm, an up or a v projection), on-disk name without ".weight".
    readers: Linears whose input channels are multiplied. one_plus: the source is a norm that multiplies by 1 + weight.
    """

    source: str
    readers: tuple[Linear, ...]
    one_plus: bool = False


def misfit_of(group_size: int) -> Callable[[Linear], str]:
    """Why AWQ cannot hold a Linear, "" where it can."""

    def misfit(linear: Linear) -> str:
        if linear.in_features % group_size:
            return f"{group_size} does not divide its input channels"
        return f"{PER_WORD} does not divide its output channels" if linear.out_features % PER_WORD else ""

    return misfit


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
        groups += _up_to_down(parts, source)
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


def _up_to_down(parts: Mapping[str, Linear], source: Source) -> list[SmoothingGroup]:
    found = next((names for names in _GATED if all(name in parts for name in names)), None)
    if found is None or _setting(source.checkpoint.config, _CLAMPED_UP):
        return []
    up, down = parts[found[1]], parts[found[2]]
    if up.module in source.architecture.bent_experts:
        return []
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
