"""What a model must consist of: from its source if that is available, else from config.json by transformers itself.

transformers knows the names on disk of every architecture that it can load: it writes them when it saves. Nothing here
comes from what an exporter planned.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sixfold.model.architecture import Architecture, Linear, derive_architecture
from sixfold.model.bare_config import described
from sixfold.model.source import Source

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BUFFERS = re.compile(r"inv_freq$|rotary_emb\.")
_NOT_RUN = re.compile(r"inv_freq$|(^|\.)mtp\.|rotary_emb\.")

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
        return bool((layer and count <= int(layer[1]) < count + self.drafts) or _NOT_RUN.search(name))


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
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    checkpoint = described(plain, str(where), where, name="artifact")
    architecture = derive_architecture(checkpoint)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    drafts = sum(config[key] for key in _DRAFTS if isinstance(config.get(key), int))
    return Blueprint(architecture, shapes, {}, _optional(architecture, shapes), None, drafts)


def _optional(architecture: Architecture, tensors: Mapping[str, Any]) -> frozenset[str]:
    tied = {name for name in tensors if architecture.tied_embeddings and name == "lm_head.weight"}
    return frozenset(tied | {name for name in tensors if _BUFFERS.search(name)})
