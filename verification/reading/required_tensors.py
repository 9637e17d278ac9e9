"""What a model must consist of: from its source if that is available, else from config.json by transformers itself.

transformers knows the names on disk of every architecture that it can load: it writes them when it saves. Nothing here
comes from what an exporter planned.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from sixfold.checkpoint.checkpoint import Checkpoint, SourceTensor
from sixfold.model.architecture import Architecture, Linear
from sixfold.model.bare_config import described
from sixfold.model.derivation import derive_architecture
from sixfold.model.expert_stacks import with_single_experts
from sixfold.model.source import Source
from sixfold.model.wrappers import lies_around

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BUFFERS = re.compile(r"inv_freq$|rotary_emb\.")
_NOT_RUN = re.compile(r"inv_freq$|(^|\.)mtp\.|rotary_emb\.")

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")
_STACKS = {
    "gate_proj": ("gate_up_proj",),
    "up_proj": ("gate_up_proj", "up_proj"),
    "down_proj": ("down_proj",),
    "w1": ("gate_up_proj",),
    "w3": ("gate_up_proj",),
    "w2": ("down_proj",),
}
"""Projection of an expert -> the tensors of all experts that it may be in."""
_DRAFTS = ("num_nextn_predict_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_hidden_layers")


@dataclass(frozen=True)
class Blueprint:
    """tensors: shape of every unquantized tensor by on-disk name. dtypes: the source's, {} where only config.json is
    known. optional: those that a sound folder may leave out (tied heads). drafts: multi-token-prediction layers behind
    the decoder's, by config.json."""

    architecture: Architecture
    tensors: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    optional: frozenset[str]
    source: Source | None
    drafts: int = 0

    @cached_property
    def linears(self) -> Mapping[str, Linear]:
        return {linear.name: linear for linear in self.architecture.linears}

    def not_run(self, name: str) -> bool:
        """Whether transformers would not run this tensor (multi-token prediction, buffers that models recompute, what
        lies around a decoder that alone is known)."""
        if self.source is not None:
            module = name.rpartition(".")[0]
            not_run = self.architecture.not_run
            return name in not_run or any(other.rpartition(".")[0] == module for other in not_run)
        layer = _LAYER.search(name)
        count = self.architecture.layers
        return bool((layer and count <= int(layer[1]) < count + self.drafts) or _NOT_RUN.search(name)) or (
            lies_around(self.architecture.model_type, name)
        )


def blueprint_of(source: Source) -> Blueprint:
    tensors = source.checkpoint.tensors
    return Blueprint(
        source.architecture,
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        _optional(source.architecture, tensors),
        source,
    )


def blueprint_from_config(config: Mapping[str, Any], where: Path, held: Collection[str]) -> Blueprint:
    """held: the folder's tensor names, which tell whether all experts of a layer are one of them. Raises SixfoldError
    where transformers knows no such model, or config.json describes none."""
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    checkpoint = _as_held(described(plain, str(where), where, name="artifact", held=held), held)
    architecture = derive_architecture(checkpoint)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    drafts = sum(config[key] for key in _DRAFTS if isinstance(config.get(key), int))
    return Blueprint(architecture, shapes, {}, _optional(architecture, shapes), None, drafts)


def _as_held(checkpoint: Checkpoint, held: Collection[str]) -> Checkpoint:
    """With or without a tensor for each expert, as the folder has it: transformers reads either."""
    single = with_single_experts(checkpoint)
    if single.slices:
        return checkpoint if any(cut.stack in held for cut in single.slices.values()) else single
    tensors: dict[str, SourceTensor] = {}
    for name, tensor in checkpoint.tensors.items():
        found = _EXPERT.fullmatch(name)
        parts = _STACKS.get(found[3], ()) if found else ()
        stack = next((f"{found[1]}.{part}" for part in parts if f"{found[1]}.{part}" in held), None) if found else None
        if stack is None:
            tensors[name] = tensor
            continue
        rows = tensor.shape[0] * (2 if stack.endswith(".gate_up_proj") else 1)
        experts = max(int(found[2]) + 1, tensors[stack].shape[0] if stack in tensors else 0) if found else 0
        shape = (experts, rows, tensor.shape[1])
        tensors[stack] = replace(
            tensor, name=stack, shape=shape, nbytes=prod(shape) * tensor.nbytes // prod(tensor.shape)
        )
    return replace(checkpoint, tensors=tensors)


def _optional(architecture: Architecture, tensors: Mapping[str, Any]) -> frozenset[str]:
    tied = {name for name in tensors if architecture.tied_embeddings and name == "lm_head.weight"}
    return frozenset(tied | {name for name in tensors if _BUFFERS.search(name)})
