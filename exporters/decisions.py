"""What `decide` found, saved layer by layer with a hash: a search may depend on the machine, its result must not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exporters.protocol import Decisions, Exporter
from sixfold.artifact.plan import ExportPlan
from sixfold.artifact.workspace import Workspace, digest_of, read_json, replacing, sha256_of, write_json
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.statistics.statistics import Statistics

_INDEX = "decisions.json"


@dataclass(frozen=True)
class DecisionStore:
    """digest: over all layers, None where nothing had to be decided."""

    folder: Path
    digest: str | None
    layers: frozenset[int]
    notes: tuple[str, ...]

    def of_layer(self, layer: int | None) -> Decisions:
        """Tensors by name; {} for layer None and for layers without decisions."""
        if layer is None or layer not in self.layers:
            return {}
        return _load(self.folder / _file(layer), self.digest)


@lru_cache(maxsize=4)
def _load(path: Path, digest: str | None) -> Decisions:
    return load_file(path)


def _file(layer: int) -> str:
    return f"layer-{layer:05d}.safetensors"


def decide_all(
    exporter: Exporter,
    source: Source,
    recipe: Recipe,
    statistics: Statistics | None,
    plan: ExportPlan,
    workspace: Workspace,
    inputs: Mapping[str, Any],
    progress: Progress,
) -> DecisionStore:
    """Decide every layer that a unit of the plan names, resuming where an earlier run with the same inputs stopped."""
    layers = sorted({unit.layer for unit in plan.units if unit.layer is not None})
    folder = workspace.decisions(recipe.name)
    key = digest_of(dict(inputs))
    index = read_json(folder / _INDEX)
    known: dict[str, str] = dict(index["files"]) if index and index.get("key") == key else {}
    if layers:
        folder.mkdir(parents=True, exist_ok=True)
        with progress(f"{recipe.name}: deciding", len(layers), "layers") as advance:
            for layer in layers:
                name = _file(layer)
                if not (name in known and (folder / name).is_file() and sha256_of(folder / name) == known[name]):
                    known[name] = _decide(exporter, source, recipe, statistics, layer, folder / name)
                    write_json(folder / _INDEX, {"key": key, "files": known})
                advance(1)
    files = {_file(layer): known[_file(layer)] for layer in layers}
    notes = [note for name in files for note in _notes(folder / name)]
    return DecisionStore(folder, digest_of(files) if files else None, frozenset(layers), tuple(dict.fromkeys(notes)))


def _notes(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(json.loads(file.metadata()["notes"]))


def _decide(
    exporter: Exporter, source: Source, recipe: Recipe, statistics: Statistics | None, layer: int, path: Path
) -> str:
    decided = exporter.decide(source, recipe, statistics, layer)
    # Cloned: safetensors refuses tensors that share memory, as two names for one scale may.
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in decided.tensors.items()}
    with replacing(path) as temporary:
        save_file(dict(sorted(tensors.items())), temporary, metadata={"notes": json.dumps(decided.notes)})
        temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    return sha256_of(path)
