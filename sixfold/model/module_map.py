"""On-disk tensors against transformers' own model definition: which parameter each becomes, and whether all fit."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from sixfold.checkpoint.checkpoint import Checkpoint, SourceTensor
from sixfold.checkpoint.config_fields import draft_layers
from sixfold.checkpoint.expert_slice import StackLayout
from sixfold.errors import SixfoldError
from sixfold.model.experts_module import computed_layout

_SHOWN = 3  # names listed in a refusal before "and N more"


@dataclass(frozen=True)
class Placement:
    """Where one on-disk tensor ends up in the model.

    parameter: transformers' name; several on-disk tensors share one where experts are fused.
    part: position among the patterns that are fused into it (0 gate, 1 up), 0 elsewhere.
    expert: index where the tensor is one expert's, None elsewhere.
    pattern: of transformers' conversion that it takes part in, "" where it is only renamed.
    also: further parameters that it is cut into (a fused q, k and v), `parameter` being the first.
    layout: how the parameter holds its experts, where the tensor was cut from a stack; None elsewhere.
    """

    parameter: str
    part: int
    expert: int | None
    pattern: str = ""
    also: tuple[str, ...] = ()
    layout: StackLayout | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        return (self.parameter, *self.also)


def map_tensors(model: nn.Module, checkpoint: Checkpoint) -> tuple[dict[str, Placement], tuple[str, ...]]:
    """(on-disk name -> Placement, names that the model does not run such as MTP layers).

    Raises SixfoldError where a tensor is missing, has another shape than the config says, or is unknown to the model.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    converters = converters_of(model)
    renamings = [t for t in get_model_conversion_mapping(model) if not isinstance(t, WeightConverter)]
    state = model.state_dict()
    placements: dict[str, Placement] = {}
    not_run: list[str] = []
    unknown: list[str] = []
    sources: dict[str, list[str]] = {}
    drafts = draft_layers(checkpoint.config)
    for name in checkpoint.tensors:
        cut = checkpoint.slices.get(name)
        stored = name if cut is None else cut.stack
        target, pattern = rename_source_key(stored, renamings, converters, model.base_model_prefix, state)
        if cut is not None and target in state:
            module, _, leaf = target.rpartition(".")
            layout = computed_layout(model.get_submodule(module), leaf)
            joined = next((c.source_patterns for c in converters if pattern in c.source_patterns), [pattern])
            part = cut.part if len(joined) == 1 else joined.index(pattern)
            placements[name] = Placement(target, part, cut.expert, layout=layout)
            sources.setdefault(target, []).append(name)
            continue
        if target not in state and name in state:  # as transformers loads it: a rule for older names took it for one
            target, pattern = name, None
        if target in state:
            part, expert, also = 0, None, ()
            if pattern is not None:
                converter = next(c for c in converters if pattern in c.source_patterns)
                part = converter.source_patterns.index(pattern)
                expert = _expert_index(name)
                first, *others = converter.target_patterns
                also = tuple(p for other in others if (p := target.replace(first, other, 1)) in state and p != target)
            placements[name] = Placement(target, part, expert, pattern or "", also)
            for parameter in placements[name].parameters:
                sources.setdefault(parameter, []).append(name)
        elif _not_run(model, name, drafts):
            not_run.append(name)
        else:
            unknown.append(name)
    _check_complete(model, checkpoint, state, sources, unknown)
    _check_shapes(checkpoint, state, placements, sources)
    return placements, tuple(not_run)


def converters_of(model: nn.Module) -> list[Any]:
    """transformers' conversions of this model's weights that do more than rename."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    return [t for t in get_model_conversion_mapping(model) if isinstance(t, WeightConverter)]


def _expert_index(name: str) -> int | None:
    found = re.search(r"experts\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _not_run(model: nn.Module, name: str, drafts: int) -> bool:
    """MTP layers behind the last decoder layer, as many as config.json names (`drafts`), and buffers that old
    checkpoints carry and models recompute."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    layer = re.search(r"(?<!mtp\.)layers\.(\d+)\.", name)
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    if layer and count <= int(layer.group(1)) < count + drafts:
        return True
    return name.endswith("inv_freq") or name.startswith("mtp.") or any(re.search(p, name) for p in patterns)


def _check_complete(
    model: nn.Module,
    checkpoint: Checkpoint,
    state: Mapping[str, Any],
    sources: Mapping[str, list[str]],
    unknown: list[str],
) -> None:
    tied = tied_parameters(model)
    missing = [name for name in state if name not in sources and name not in tied]
    if missing:
        hint = f" (it holds unknown {_listed(unknown)} instead)" if unknown else ""
        raise SixfoldError(
            f"{checkpoint.location} lacks tensors that its config.json calls for: {_listed(missing)}{hint}",
            "download the checkpoint again, or correct config.json",
        )
    if unknown:
        raise SixfoldError(
            f"{checkpoint.location} holds tensors that its config.json has no place for: {_listed(unknown)}",
            "correct config.json (number of layers, of experts), or remove them",
        )


def tied_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are another's and need not be on disk, as config.json says."""
    return frozenset(getattr(model, "all_tied_weights_keys", None) or {})


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_shapes(
    checkpoint: Checkpoint,
    state: Mapping[str, torch.Tensor],
    placements: Mapping[str, Placement],
    sources: Mapping[str, list[str]],
) -> None:
    alone = {parameter: names for parameter, names in sources.items() if placements[names[0]].expert is None}
    # Experts first: their number explains a router's shape, and not the other way round.
    for parameter in [p for p in sources if p not in alone]:
        if placements[sources[parameter][0]].also or placements[sources[parameter][0]].layout is not None:
            _check_elements(checkpoint, sources[parameter], placements, state)
            continue
        found = [(checkpoint.tensors[name], placements[name]) for name in sources[parameter]]
        _check_experts(checkpoint, parameter, tuple(state[parameter].shape), found)
    for parameter, names in alone.items():
        want = tuple(state[parameter].shape)
        if placements[names[0]].pattern:
            _check_elements(checkpoint, names, placements, state)
        elif len(names) == 1 and checkpoint.tensors[names[0]].shape != want:
            raise _wrong_shape(checkpoint, checkpoint.tensors[names[0]], want)


def _check_elements(
    checkpoint: Checkpoint, names: list[str], placements: Mapping[str, Placement], state: Mapping[str, torch.Tensor]
) -> None:
    """Tensors that are cut, joined or transposed, against all that they become: nothing is added and nothing left."""
    parameters = placements[names[0]].parameters
    want = sum(state[parameter].numel() for parameter in parameters)
    found = sum(prod(checkpoint.tensors[name].shape) for name in names)
    if found != want:
        raise SixfoldError(
            f"{_listed(names)} in {checkpoint.location} hold {found:,} numbers, but config.json says {want:,} for"
            f" {_listed(list(parameters))}",
            "correct config.json, or download the checkpoint again",
        )


def _check_experts(
    checkpoint: Checkpoint, parameter: str, want: tuple[int, ...], found: list[tuple[SourceTensor, Placement]]
) -> None:
    """A fused [experts, out, in] parameter against the matrices of single experts that it is made of."""
    experts, out_features, in_features = want
    parts = 1 + max(place.part for _, place in found)
    by_expert: dict[int | None, set[int]] = defaultdict(set)
    for tensor, place in found:
        if tensor.shape != (out_features // parts, in_features):
            raise _wrong_shape(checkpoint, tensor, (out_features // parts, in_features))
        by_expert[place.expert].add(place.part)
    numbers = sorted(e for e in by_expert if e is not None)
    if numbers != list(range(experts)):
        raise SixfoldError(
            f"{checkpoint.location} holds {len(numbers)} experts for {parameter}"
            f" (numbers {numbers[0]} to {numbers[-1]}), but config.json says {experts}",
            "correct the number of experts in config.json, or download the checkpoint again",
        )
    partial = [e for e in numbers if len(by_expert[e]) != parts]
    if partial:
        raise SixfoldError(
            f"{checkpoint.location} lacks a projection of expert {partial[0]} for {parameter}",
            "download the checkpoint again",
        )


def _wrong_shape(checkpoint: Checkpoint, tensor: SourceTensor, want: tuple[int, ...]) -> SixfoldError:
    return SixfoldError(
        f"{tensor.name} in {checkpoint.location} has shape {list(tensor.shape)}, but config.json says {list(want)}",
        "correct config.json, or download the checkpoint again",
    )
