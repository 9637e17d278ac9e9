"""Every reader of files that somebody else wrote: a seed that it reads, and how it is called with a file like that."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow
from gguf import GGUFWriter
from pyarrow import parquet
from safetensors.numpy import save

from calibration.texts.rows import rows_of
from cards.budget.gguf_config import gguf_weights
from cards.budget.stored_weights import read_config as budget_config
from exporters.ggml.header.tokenizer import write_tokenizer
from exporters.registry import exporter_named
from sixfold.artifact.manifest import damaged_files, state_of
from sixfold.artifact.verification_record import SCHEMA, stored_result, verdict_of
from sixfold.artifact.workspace import read_json
from sixfold.boundary.gguf_header import read_gguf_header
from sixfold.checkpoint.checkpoint import read_config
from sixfold.checkpoint.provenance import parse_provenance
from sixfold.checkpoint.storage.safetensors_header import read_header
from sixfold.checkpoint.storage.weight_files import parse_index
from sixfold.model.bare_config import described
from sixfold.model.derivation import derive_architecture
from sixfold.recipes.recipe import load_recipes
from sixfold.statistics.importance_matrix import open_importance_matrix
from tests.exporters.exported import DEMO
from tests.fuzz.mutations import bytes_like, json_like
from verification.structure.folder_structure import check_structure, open_subject
from verification.structure.gguf.structure import check_gguf_structure, open_gguf_subject

Mutate = Callable[[Random], bytes]


@dataclass(frozen=True)
class Reader:
    """file: what the mutated bytes are called, beside a copy of what else the reader wants. seed: a file that it reads.
    read: gets the file's path. costly: reads few inputs a second, and gets as many fewer."""

    file: str
    seed: bytes
    read: Callable[[Path], Any]
    as_json: bool = False
    costly: int = 1

    def mutated(self, random: Random) -> bytes:
        return json_like(json.loads(self.seed), random) if self.as_json else bytes_like(self.seed, random)


def _gguf(path: Path, keys: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    writer = GGUFWriter(None, "llama")
    for name, value in keys.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _parquet(path: Path) -> bytes:
    rows = [{"text": f"some text {n}"} for n in range(40)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=20)
    return path.read_bytes()


def _tokenizer(path: Path) -> None:
    writer = GGUFWriter(None, "minimax-m2")
    write_tokenizer(writer, path.parent, "minimax-m2", 2048, None, begins=None)


def _rows(path: Path) -> None:
    rows = rows_of(path, 1000)
    rows.read(range(min(len(rows), 50)))


def _checkpoint_config(path: Path) -> None:
    read_config(path, "model")


def _model(path: Path) -> None:
    derive_architecture(described(read_config(path, "model"), str(path), path.parent, name="model"))


def _recipe(path: Path) -> None:
    load_recipes(str(path), (), lambda name: exporter_named(name).Options)


def _records(path: Path) -> None:
    manifest = read_json(path)
    state_of(path.parent, path.name, None)
    if manifest is not None and isinstance(manifest.get("files"), dict):
        damaged_files(path.parent, manifest, None)


def _verdict(path: Path) -> None:
    found = read_json(path)
    stored_result(path.parent, "manifest.json")
    if found is not None and found.get("schema") == SCHEMA and "artifact" in found:
        verdict_of(found)


def _gguf_file(path: Path) -> None:
    stopped = [f for f in check_gguf_structure(open_gguf_subject(path, None)) if f.check == "check.stopped"]
    assert not stopped, stopped


def _folder(path: Path) -> None:
    stopped = [f for f in check_structure(open_subject(path.parent, None)) if f.check == "check.stopped"]
    assert not stopped, stopped


def readers(folder: Path) -> dict[str, Reader]:
    """folder: for what seeds are made in."""
    config = (DEMO / "config.json").read_bytes()
    llama = {
        "llama.block_count": 1,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.attention.head_count": 2,
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "tokenizer.ggml.model": "llama",
    }
    model = _gguf(folder / "a.gguf", llama, {"blk.0.attn_q.weight": np.zeros((32, 32), np.float32)})
    sums = {"blk.0.attn_q.weight.in_sum2": np.ones((1, 32), np.float32), "blk.0.attn_q.weight.counts": np.ones((1, 1))}
    matrix = {name: array.astype(np.float32) for name, array in sums.items()}
    imatrix = _gguf(folder / "b.gguf", {"general.type": "imatrix", "imatrix.datasets": ["x"]}, matrix)
    dat = b"".join((n).to_bytes(4, "little") for n in (1, 1)) + b"w" + (2).to_bytes(4, "little") * 2 + bytes(8)
    shard = save({f"layers.{n}.w": np.zeros((4, 4), np.float32) for n in range(3)}, {"format": "pt"})
    recipe = b"name: mine\nextends: fp8\nsuffix: MINE\ntitle: a title\nkeep: ['self_attn\\.']\ngates: {min_top1: 0.9}\n"
    source = b"base_model: a/b\nlicense: mit\nauthors: [one, two]\nmethod: |\n  several\n  lines\n"
    chat = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}, {"text": "t"}]
    files = {name: {"bytes": 3, "sha256": "0" * 64} for name in ("config.json", "model.safetensors")}
    manifest = {
        "variant": "fp8",
        "source": {"fingerprint": "f", "revision": ""},
        "recipe": {"name": "fp8", "engines": ["vLLM"], "keep": [], "gates": {"min_top1": 0.5}},
        "versions": {"torch": "2"},
        "notes": ["n"],
        "files": files,
    }
    score = {"mean_kl": 0.1, "top1": 0.9, "domains": {"code": 0.1}, "layers": [0.1]}
    verification = {
        "schema": SCHEMA,
        "artifact": {"name": "a", "kind": "folder", "files": {"a": 1}, "content": "c"},
        "source": {"name": "s", "fingerprint": "f"},
        "passed": True,
        "gates": {"min_top1": 0.5},
        "allowed": {"min_top1": 0.5},
        "findings": [dict.fromkeys(("check", "where", "what", "consequence", "remedy", "severity"), "x")],
        "weights": None,
        "divergence": {"tokens": 1, "windows": 1, "scores": {"weights": score}, "plain": None},
        "smoke": None,
        "tensor_parallel": {"2": []},
    }
    index = {"metadata": {"total_size": 1}, "weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}
    quantized = json.loads(config) | {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "ignore": ["lm_head", "re:.*gate"],
            "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
        }
    }
    tokenizer = (DEMO / "tokenizer.json").read_bytes()
    return {
        "gguf header": Reader("x.gguf", model, read_gguf_header),
        "gguf budget": Reader("x.gguf", model, gguf_weights),
        "gguf structure": Reader("x.gguf", model, _gguf_file, costly=4),
        "importance matrix": Reader("x.gguf", imatrix, lambda path: open_importance_matrix(str(path))),
        "older importance matrix": Reader("x.dat", dat, lambda path: open_importance_matrix(str(path))),
        "safetensors header": Reader("x.safetensors", shard, lambda p: read_header(p.parent, p.name)),
        "index": Reader("i.json", json.dumps(index).encode(), lambda p: parse_index("m", p.read_bytes()), as_json=True),
        "config": Reader("config.json", config, _checkpoint_config, as_json=True),
        "config as bytes": Reader("config.json", config, _checkpoint_config),
        "budget's config": Reader("config.json", config, budget_config, as_json=True),
        "model of a config": Reader("config.json", config, _model, as_json=True, costly=40),
        "recipe": Reader(
            "r.yaml",
            recipe,
            _recipe,
            costly=4,
        ),
        "provenance": Reader("p.yaml", source, lambda path: parse_provenance("p.yaml", path.read_bytes())),
        "texts, json lines": Reader("x.jsonl", b"\n".join(json.dumps(row).encode() for row in chat), _rows),
        "texts, json": Reader("x.json", json.dumps(chat).encode(), _rows, as_json=True),
        "texts, parquet": Reader("x.parquet", _parquet(folder / "x.parquet"), _rows),
        "tokenizer": Reader("tokenizer.json", tokenizer, _tokenizer, costly=40),
        "manifest": Reader("manifest.json", json.dumps(manifest).encode(), _records, as_json=True),
        "verification": Reader("verification.json", json.dumps(verification).encode(), _verdict, as_json=True),
        "artifact's config": Reader("config.json", json.dumps(quantized).encode(), _folder, as_json=True, costly=40),
    }
