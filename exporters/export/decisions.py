"""What `decide` found, saved layer by layer with a hash: a search may depend on the machine, its result must not."""

import json
import secrets
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from exporters.protocol import Decided, Decisions
from sixfold.artifact.workspace import digest_of, read_json, replacing, sha256_of, write_json
from sixfold.checkpoint.storage.tensor_file import write_tensors

_INDEX = "decisions.json"


class DecisionStore:
    """Of one variant. What an earlier run with the same `inputs` decided stays decided.

    mark: changes whenever something that was decided is lost, and what was made of it is not to be gone on from.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any], layers: frozenset[int]) -> None:
        """layers: those that a unit of the plan names."""
        self.folder, self._layers, self._key = folder, layers, digest_of(dict(inputs))
        index = read_json(folder / _INDEX) or {}
        recorded: dict[str, str] = dict(index.get("files", {})) if index.get("key") == self._key else {}
        self._known = {name: digest for name, digest in recorded.items() if _holds(folder / name, digest)}
        self.mark = str(index.get("mark", "")) if recorded == self._known else ""
        self.mark = self.mark or secrets.token_hex(8)
        self._lock = Lock()
        self._loaded = lru_cache(maxsize=4)(lambda layer: load_file(self.folder / _file(layer)))

    def knows(self, layer: int) -> bool:
        return _file(layer) in self._known

    def record(self, layer: int, decided: Decided) -> None:
        path = self.folder / _file(layer)
        with replacing(path) as temporary:
            digest = write_tensors(temporary, decided.tensors, {"notes": json.dumps(decided.notes)})
        with self._lock:
            self._known[_file(layer)] = digest
            write_json(self.folder / _INDEX, {"key": self._key, "mark": self.mark, "files": self._known})

    def of_layer(self, layer: int | None) -> Decisions:
        """Tensors by name; {} for None."""
        return {} if layer is None else self._loaded(layer)

    @property
    def digest(self) -> str | None:
        """Over all layers, once each is decided; None where nothing had to be."""
        return digest_of({name: self._known[name] for name in self._files()}) if self._layers else None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for name in self._files() for note in _notes(self.folder / name)))

    def _files(self) -> list[str]:
        return [_file(layer) for layer in sorted(self._layers)]


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def _file(layer: int) -> str:
    return f"layer-{layer:05d}.safetensors"


def _notes(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(json.loads(file.metadata()["notes"]))
