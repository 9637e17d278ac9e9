"""What a model must consist of: from its source where that is at hand, else from config.json by transformers itself.

transformers knows the names on disk of every architecture that it can load: it writes them when it saves. Nothing here
comes from what an exporter planned.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sixfold.architecture import Architecture, Linear, derive_architecture
from sixfold.checkpoint import Checkpoint, Contents, SourceTensor
from sixfold.errors import SixfoldError
from sixfold.module_map import meta_model
from sixfold.provenance import Provenance
from sixfold.source import Source

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_RECOMPUTED = re.compile(r"inv_freq$|(^|\.)mtp\.|rotary_emb\.")

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
        """Whether transformers would not run this tensor (multi-token prediction, buffers that models recompute)."""
        if self.source is not None:
            module = name.rpartition(".")[0]
            not_run = self.architecture.not_run
            return name in not_run or any(other.rpartition(".")[0] == module for other in not_run)
        layer = _LAYER.search(name)
        count = self.architecture.layers
        return bool((layer and count <= int(layer[1]) < count + self.drafts) or _RECOMPUTED.search(name))


def blueprint_of(source: Source) -> Blueprint:
    tensors = source.checkpoint.tensors
    return Blueprint(
        source.architecture,
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        _optional(source.architecture, tensors),
        source,
    )


def blueprint_from_config(config: Mapping[str, Any], where: Path) -> Blueprint:
    """Raises SixfoldError where transformers knows no such model, or config.json describes none."""
    from transformers.core_model_loading import revert_weight_conversion

    empty = _checkpoint(config, where, {})
    model: Any = meta_model(empty)
    stored = revert_weight_conversion(model, model.state_dict())
    tied = set(getattr(model, "all_tied_weights_keys", None) or {}) if config.get("tie_word_embeddings") else set()
    tensors = {name: tuple(value.shape) for name, value in stored.items() if name not in tied}
    checkpoint = _checkpoint(
        config, where, {name: SourceTensor(name, "BF16", shape, 0) for name, shape in tensors.items()}
    )
    architecture = derive_architecture(checkpoint)
    drafts = sum(config[key] for key in _DRAFTS if isinstance(config.get(key), int))
    return Blueprint(architecture, tensors, {}, _optional(architecture, tensors), None, drafts)


def _optional(architecture: Architecture, tensors: Mapping[str, Any]) -> frozenset[str]:
    tied = {name for name in tensors if architecture.tied_embeddings and name == "lm_head.weight"}
    return frozenset(tied | {name for name in tensors if _RECOMPUTED.search(name)})


def _checkpoint(config: Mapping[str, Any], where: Path, tensors: Mapping[str, SourceTensor]) -> Checkpoint:
    def refuse(*_: Any) -> Any:
        raise SixfoldError(f"{where} is only known by its config.json")

    plain = {k: v for k, v in config.items() if k != "quantization_config"}
    return Checkpoint(
        "artifact", str(where), where, "", plain, tensors, (), Provenance(), Contents(refuse, refuse, refuse)
    )
