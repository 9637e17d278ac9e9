"""Ways to damage a copy of an artifact: hard links to all that stays, new files for what changes, no manifest."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from safetensors.torch import load_file, save_file

from sixfold.artifact.workspace import sha256_of

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.{}."
MOE = "model.layers.{}.block_sparse_moe."
EXPERT = "model.layers.{}.block_sparse_moe.experts.{}.{}."
_OWN = ("manifest.json", "run.json", "README.md", "verification.json")


def copy_folder(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        if path.name not in _OWN and path.is_file():  # charts are of its neighbors too
            os.link(path, target / path.name)
    return target


def replace(path: Path, data: bytes) -> None:
    """Break the hard link: the original keeps its bytes."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def edit_tensors(folder: Path, change: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})
    path.chmod(0o644)


def edit_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """The header of model.safetensors, over the same bytes."""

    def do(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        text = json.dumps(header).encode()
        replace(path, len(text).to_bytes(8, "little") + text + data[end:])

    return do


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "config.json") -> None:
    config = json.loads((folder / name).read_text())
    change(config)
    replace(folder / name, json.dumps(config, indent=2).encode())


def in_shards(folder: Path, index: Callable[[dict[str, Any]], None] = lambda index: None) -> None:
    """Two shards with an index, which `index` may change."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        (folder / file).chmod(0o644)
        weight_map |= dict.fromkeys(part, file)
    found = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    index(found)
    (folder / "model.safetensors.index.json").write_text(json.dumps(found))


def swap(tensors: Tensors, one: str, other: str) -> None:
    """Exchange every tensor whose name begins with `one` with that of `other`."""
    for name in [n for n in tensors if n.startswith(one)]:
        there = other + name.removeprefix(one)
        tensors[name], tensors[there] = tensors[there], tensors[name]


def flip(tensor: torch.Tensor, index: tuple[int, ...], bit: int) -> None:
    """One bit of one element."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    view = tensor.view(kinds[tensor.element_size()])
    view[index] ^= (1 << bit) if bit < 8 * tensor.element_size() - 1 else torch.iinfo(view.dtype).min


def copy_gguf(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes())
    return target


GgufData = dict[str, tuple[np.ndarray, GGMLQuantizationType]]


@dataclass(frozen=True)
class _Contents:
    """keys: name -> value, type and type of an array's elements."""

    arch: str
    keys: Mapping[str, tuple[Any, GGUFValueType, GGUFValueType | None]]
    tensors: GgufData


_READ: dict[str, _Contents] = {}
"""By sha256 of the file: gguf-py takes as long to read a tokenizer as verification takes for everything."""


def _contents(path: Path) -> _Contents:
    digest = sha256_of(path)
    if digest not in _READ:
        reader = GGUFReader(path)
        keys = {
            name: (field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.") and name != "general.architecture"
        }
        data = {t.name: (np.array(t.data), t.tensor_type) for t in reader.tensors}
        _READ[digest] = _Contents(str(reader.fields["general.architecture"].contents()), keys, data)
    return _READ[digest]


def rewrite_gguf(
    path: Path,
    keys: Mapping[str, Any] | None = None,
    tensors: Callable[[GgufData], None] = lambda tensors: None,
) -> None:
    """By gguf-py: `keys` replaces and adds values (None removes one); `tensors` gets name -> (bytes by row, type)."""
    changed, found = keys or {}, _contents(path)
    writer = GGUFWriter(None, found.arch)
    for name, (held, kind, inner) in found.keys.items():
        value = changed.get(name, held)
        if value is not None:
            writer.add_key_value(name, value, kind, inner)
    for name in changed.keys() - found.keys.keys():
        writer.add_key_value(name, changed[name], GGUFValueType.get_type(changed[name]))
    data: GgufData = {name: (array.copy(), kind) for name, (array, kind) in found.tensors.items()}
    tensors(data)
    for name, (array, qtype) in data.items():
        writer.add_tensor(name, array, raw_dtype=qtype)
    path.unlink()
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.chmod(0o644)
