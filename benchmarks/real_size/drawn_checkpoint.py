"""A checkpoint of any size whose weights exist only while they are read: drawn from a seed, the same on every read.

It is a Checkpoint like another, from a config.json, with contents of its own. All weights are windows of one table of
normal numbers, each at a place that its name decides, so that reading is a copy in memory, as from the page cache. The
table's length is a prime number: no two rows of a matrix, and no two experts, are the same window.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import torch

from sixfold.checkpoint.carried_files import carried_files
from sixfold.checkpoint.checkpoint import CONFIG, Contents, SourceTensor
from sixfold.checkpoint.config_fields import without_mtp, without_quantization
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.bare_config import open_config
from sixfold.model.derivation import derive_architecture
from sixfold.model.expert_stacks import with_single_experts
from sixfold.model.source import Source

TABLE = 33_554_467
"""Numbers in the table, a prime: 67 MB in BF16, more than the caches of a core."""
_DEVIATION = 0.02


@dataclass(frozen=True)
class Drawn:
    """Weights by name. Norms are 1 and a little; all else is normal with a deviation of 0.02."""

    tensors: Mapping[str, SourceTensor]
    seed: int

    def read(self, part: TensorSlice) -> torch.Tensor:
        tensor = self.tensors[part.name]
        shape = (part.stop - part.start, *tensor.shape[1:]) if tensor.shape else ()
        out = torch.empty(shape, dtype=TORCH_DTYPES[tensor.dtype])
        self._fill(part.name, part.start * prod(tensor.shape[1:]), out)
        return out

    def read_into(self, name: str, out: torch.Tensor) -> None:
        self._fill(name, 0, out)

    def _fill(self, name: str, start: int, out: torch.Tensor) -> None:
        """Values from number `start` of the tensor on."""
        table = _table(self.seed)
        place = (_place(name, self.seed) + start) % TABLE
        flat, done = out.view(-1), 0
        while done < len(flat):
            step = min(len(flat) - done, TABLE - place)
            flat[done : done + step] = table[place : place + step]
            done, place = done + step, 0
        if name.endswith("norm.weight"):
            flat += 1


@cache
def _table(seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(TABLE, generator=random) * _DEVIATION).bfloat16()


def _place(name: str, seed: int) -> int:
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "little") % TABLE


def fingerprint(config: Mapping[str, Any], seed: int) -> str:
    return sha256(f"drawn {seed} {json.dumps(config, sort_keys=True)}".encode()).hexdigest()


def drawn_source(config: Path, folder: Path, *, layers: int, experts: int | None = None, seed: int = 0) -> Source:
    """config: of the model. folder: gets its config.json, cut to so many layers, and has what a checkpoint holds
    beside its weights already (a tokenizer, at least). experts: instead of the config's."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = with_layers(json.loads(config.read_text()), layers)
    (folder / CONFIG).write_text(json.dumps(cut, indent=1) + "\n")
    described = open_config(folder / CONFIG, str(folder), experts=experts)
    (folder / CONFIG).write_text(json.dumps(described.config, indent=1) + "\n")
    contents = Drawn(described.tensors, seed)
    checkpoint = with_single_experts(
        replace(
            described,
            bare=False,
            extras=carried_files({path.name for path in folder.iterdir()}),
            contents=Contents(contents.read, contents.read_into, partial(fingerprint, described.config, seed)),
        )
    )
    return Source(checkpoint, derive_architecture(checkpoint))


def with_layers(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A config of the first `layers` decoder layers, in BF16 and without multi-token prediction."""
    found = without_mtp(without_quantization(config))
    holder = found.get("text_config", found)
    before, holder["num_hidden_layers"] = holder["num_hidden_layers"], layers
    for key, value in holder.items():
        if isinstance(value, list) and len(value) == before:
            holder[key] = value[:layers]
    return found
