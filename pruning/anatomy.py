"""Where a checkpoint's experts are: which tensors hold something for each expert, and which config fields count
experts.

No family is known by name. transformers' own model is built twice on the meta device, from the checkpoint's config and
from one with fewer experts: tensors whose shape differs in the second have an expert dimension.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.config_fields import CHOSEN_GROUPS, GROUPS, TOP_K, Key, count_keys, largest, with_counts
from sixfold.errors import SixfoldError
from sixfold.model.meta_model import meta_model
from sixfold.model.module_map import Placement, map_tensors
from sixfold.model.source import Source

EXPERT_TABLES = ("tid2eid",)
"""Tensors whose values are expert numbers, which no shape shows: hash routing (DeepSeek-V4) sends tokens by a table."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EXPERT = re.compile(r"experts\.(\d+)\.")


@dataclass(frozen=True)
class ExpertTensor:
    """One on-disk tensor that holds something for routed experts.

    layer: the decoder layer whose experts these are.
    parameter: what it becomes in transformers' model.
    expert: whose alone it is; None where it holds all experts of the layer, along dimension `axis`.
    """

    layer: int
    parameter: str
    expert: int | None
    axis: int = 0


@dataclass(frozen=True)
class Anatomy:
    """experts: routed experts in each MoE layer. top_k: how many of them are active per token.
    groups, chosen_groups: of a group-limited router, which chooses groups first; 1 and 1 where there are none.
    layers: the decoder layers that have experts. tensors: by on-disk name.
    keys: where config.json says how many experts there are. per_layer: whether it says so layer by layer.
    mtp: tensors of multi-token prediction layers, which transformers does not run.
    """

    experts: int
    top_k: int
    groups: int
    chosen_groups: int
    layers: tuple[int, ...]
    tensors: Mapping[str, ExpertTensor]
    keys: tuple[Key, ...]
    per_layer: bool
    mtp: tuple[str, ...]

    @property
    def group_size(self) -> int:
        return self.experts // self.groups


def dissect(source: Source) -> Anatomy:
    """Raises SixfoldError where there are no routed experts, or they cannot be told apart."""
    checkpoint, architecture = source.checkpoint.as_stored, source.architecture
    experts = architecture.experts
    if experts < 2:
        raise SixfoldError(
            f"{checkpoint.location} is a {architecture.model_type} without routed experts: there is nothing to prune",
            "give a mixture-of-experts checkpoint",
        )
    _refuse_tables(checkpoint, architecture.model_type)
    whole = meta_model(checkpoint)
    parsed: Any = whole.config
    config = parsed.to_dict()
    keys = count_keys(checkpoint.config, experts, parsed)
    groups = max(largest(config, GROUPS), 1)
    fewer = experts - groups
    by_layer = dict.fromkeys(range(architecture.layers), fewer)
    smaller = meta_model(replace(checkpoint, config=with_counts(checkpoint.config, keys, by_layer)))
    placements, not_run = map_tensors(whole, checkpoint)
    tensors = _expert_tensors(checkpoint, placements, _shapes(whole), _shapes(smaller), experts, fewer)
    layers = tuple(
        sorted(
            {tensor.layer for tensor in tensors.values() if tensor.expert is not None}
            or {tensor.layer for tensor in tensors.values()}
        )
    )
    return Anatomy(
        experts=experts,
        top_k=architecture.experts_per_token or largest(config, TOP_K),
        groups=groups,
        chosen_groups=max(largest(config, CHOSEN_GROUPS), 1) if groups > 1 else 1,
        layers=layers,
        tensors=tensors,
        keys=keys,
        per_layer=any(isinstance(_value(checkpoint.config, key), list) for key in keys),
        mtp=tuple(name for name in not_run if _is_mtp(name, architecture.layers)),
    )


def _refuse_tables(checkpoint: Checkpoint, model_type: str) -> None:
    for name in checkpoint.tensors:
        if name.rsplit(".", 1)[-1] in EXPERT_TABLES:
            raise SixfoldError(
                f"{model_type} routes by a table from tokens to experts ({name}), and an expert that the table names"
                " cannot be left out",
                "there is no remedy: such layers have no router that could choose another expert",
            )


def _value(config: Mapping[str, Any], key: Key) -> Any:
    found: Any = config
    for name in key:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _expert_tensors(
    checkpoint: Checkpoint,
    placements: Mapping[str, Placement],
    before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
    experts: int,
    fewer: int,
) -> dict[str, ExpertTensor]:
    found: dict[str, ExpertTensor] = {}
    for name, place in placements.items():
        old, new = before[place.parameter], after.get(place.parameter, ())
        if old == new:
            continue
        layer = _LAYER.search(place.parameter)
        axis = _axis(old, new, experts - fewer)
        alone = place.expert is not None
        if layer is None or axis is None or not (alone or _holds_all(checkpoint.tensors[name].shape, old, axis)):
            raise SixfoldError(
                f"{name} changes from {list(old)} to {list(new)} with {fewer} of {experts} experts,"
                " in a way that pruning does not know",
                "prune a checkpoint of another family, or report this one",
            )
        found[name] = ExpertTensor(int(layer.group(1)), place.parameter, place.expert, axis)
    return found


def _holds_all(shape: tuple[int, ...], parameter: tuple[int, ...], axis: int) -> bool:
    """Whether a tensor of this shape has all experts of the parameter, and along the same dimension: of matrices, gate
    and up may be arrays of their own on disk (Step-3.7), and be the other way round."""
    return shape == parameter or (len(shape) == len(parameter) == 3 and shape[axis] == parameter[axis])


def _axis(old: tuple[int, ...], new: tuple[int, ...], fewer: int) -> int | None:
    """The one dimension that is smaller by `fewer`."""
    if len(old) != len(new):
        return None
    changed = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    return changed[0] if len(changed) == 1 and old[changed[0]] - new[changed[0]] == fewer else None


def _is_mtp(name: str, layers: int) -> bool:
    layer = _LAYER.search(name)
    return "mtp" in name.split(".") or (layer is not None and int(layer.group(1)) >= layers)
