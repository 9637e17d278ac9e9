"""A model folder as an engine finds it: small files, headers of every shard, and tensors read one at a time.

Opening never raises for what is wrong inside the folder: whatever cannot be parsed becomes a Finding, and the checks
continue with the rest.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch

from sixfold.boundary.json_text import read_json_file
from sixfold.checkpoint.storage.positional_reads import WeightFolder
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES, FileHeader, StoredTensor, read_header
from sixfold.errors import SixfoldError, UsageError
from sixfold.name_lists import some
from verification.finding import EXPORT_AGAIN, Finding

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
MODELOPT_CONFIG = "hf_quant_config.json"
_ASIDE = re.compile(r"^(adapter|consolidated|training_args|optimizer)|imatrix")
"""Files of weights that engines do not take for the model's own."""


@dataclass(frozen=True)
class Folder:
    """files: name -> size of every regular file. config: {} where it cannot be read. index: tensor -> file, None where
    there is none. headers: of every weight file that parses, by name. tensors: the first of each name.
    opening: what could not be read."""

    path: Path
    files: Mapping[str, int]
    config: Mapping[str, Any]
    index: Mapping[str, str] | None
    index_total: Any
    headers: Mapping[str, FileHeader]
    tensors: Mapping[str, StoredTensor]
    opening: tuple[Finding, ...]
    weights: WeightFolder = field(repr=False, compare=False)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Those that engines look at: not in subfolders, unless the index names them."""
        return _weight_files(self.files, self.index)

    def read(self, name: str) -> torch.Tensor:
        """The whole stored tensor. Raises KeyError for an unknown name or a dtype that torch does not have."""
        tensor = self.tensors[name]
        return self.weights.rows(tensor, 0, tensor.shape[0] if tensor.shape else 1)

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """The same into a contiguous tensor of the CPU of its shape and dtype."""
        self.weights.rows_into(self.tensors[name], out)

    def readable(self, name: str) -> bool:
        return name in self.tensors and self.tensors[name].dtype in TORCH_DTYPES

    @cached_property
    def modelopt_config(self) -> Mapping[str, Any] | None:
        """`quantization` of hf_quant_config.json; None without the file or where it is no JSON."""
        if MODELOPT_CONFIG not in self.files:
            return None
        found = json_value(self.path / MODELOPT_CONFIG)
        inner = found.get("quantization") if isinstance(found, dict) else None
        return inner if isinstance(inner, dict) else None


def open_folder(path: Path) -> Folder:
    """Raises SixfoldError only where there is no folder, or nothing in it that could be an artifact; UsageError where
    there are several."""
    if not path.is_dir():
        raise SixfoldError(f"there is no folder {path}", "check the path")
    files = {str(p.relative_to(path)): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()}
    opening: list[Finding] = []
    index, total = _index(path, files, opening)
    if not _weight_files(files, index):
        _refuse(path, files)
    config = _json_finding(path, CONFIG, files, opening)
    headers: dict[str, FileHeader] = {}
    tensors: dict[str, StoredTensor] = {}
    for name in _weight_files(files, index):
        try:
            headers[name] = read_header(path, name)
        except (SixfoldError, OSError) as error:
            opening.append(_unreadable(name, error))
            continue
        for tensor in headers[name].tensors:
            tensors.setdefault(tensor.name, tensor)
    weights = WeightFolder(path, pinned=torch.cuda.is_available())
    return Folder(path, files, config, index, total, headers, tensors, tuple(opening), weights)


def _weight_files(files: Mapping[str, int], index: Mapping[str, str] | None) -> tuple[str, ...]:
    listed = set(index.values()) if index is not None else set()
    weights = (name for name in sorted(files) if name.endswith(".safetensors") and not _ASIDE.search(name))
    return tuple(name for name in weights if "/" not in name or name in listed)


def _refuse(path: Path, files: Mapping[str, int]) -> NoReturn:
    inner = {name.rpartition("/")[0] for name in files if name.endswith(f"/{CONFIG}")}
    inner |= {name for name in files if "/" in name and name.endswith(".gguf")}
    if inner:
        raise UsageError(f"{path} is not a model; it holds {some(sorted(inner))}", "name the one to verify")
    hint = "give the GGUF file itself" if any(n.endswith(".gguf") for n in files) else "give a model's folder"
    raise SixfoldError(f"there is no safetensors file in {path}", hint)


def weights_gone(path: Path) -> Finding | None:
    """Of an artifact whose manifest or index lists weight files, and of which not one is left. path: a folder, or a
    GGUF file."""
    folder = path if path.suffix != ".gguf" else path.parent
    own = "manifest.json" if path.suffix != ".gguf" else f"{path.name}.manifest.json"
    listed: dict[str, str] = {}
    for file, key in ((INDEX, "weight_map"), (own, "files")):
        found = json_value(folder / file)
        held = found.get(key) if isinstance(found, dict) else None
        if isinstance(held, dict):
            names = held.values() if key == "weight_map" else held
            listed |= {n: file for n in names if isinstance(n, str) and n.endswith((".safetensors", ".gguf"))}
    if not listed or any((folder / name).exists() for name in listed) or any(folder.glob("*.safetensors")):
        return None
    file = next(iter(listed.values()))
    what = f"its weights are gone: {file} lists {some(list(listed))}, and there is no such file"
    return Finding("files.weights-gone", path.name, what, "no engine loads it", EXPORT_AGAIN)


def json_value(path: Path) -> Any:
    """None where there is no JSON to be read."""
    try:
        return read_json_file(path)
    except SixfoldError:
        return None


def _json_finding(path: Path, name: str, files: Mapping[str, int], opening: list[Finding]) -> dict[str, Any]:
    found = json_value(path / name)
    if isinstance(found, dict):
        return found
    what = "is not a JSON object" if name in files else "is missing"
    opening.append(
        Finding("files.config", name, f"{name} {what}", "no engine loads the folder", "restore it from the source")
    )
    return {}


def _index(path: Path, files: Mapping[str, int], opening: list[Finding]) -> tuple[Mapping[str, str] | None, Any]:
    """(tensor -> file, the total_size that it states)."""
    if INDEX not in files:
        return None, None
    found = json_value(path / INDEX)
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        opening.append(
            Finding(
                "files.index",
                INDEX,
                "it is no index: there is no map from tensors to files in it",
                "loading stops",
                EXPORT_AGAIN,
            )
        )
        return None, None
    metadata = found.get("metadata")
    return weight_map, metadata.get("total_size") if isinstance(metadata, dict) else None


def _unreadable(name: str, error: SixfoldError | OSError) -> Finding:
    what = error.what if isinstance(error, SixfoldError) else f"{name} cannot be read: {error.strerror}"
    return Finding(
        "files.header", name, what, "loading stops, or a memory-mapped read crashes", "copy the file again, or export"
    )


def modules_of(names: Iterator[str]) -> dict[str, set[str]]:
    """Tensor names grouped: all before the last dot -> what comes after it."""
    found: dict[str, set[str]] = {}
    for name in names:
        module, _, suffix = name.rpartition(".")
        found.setdefault(module, set()).add(suffix)
    return found
