"""Headers of safetensors, the index, and files beside that an engine prefers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.verification.corpus.changes import W1, W2, W3, Damage, Q, put, tensors
from tests.verification.damage import LAYER, MOE, Tensors, edit_header, in_shards, replace


def raw(change: Callable[[bytes, bytes], bytes]) -> Callable[[Path], None]:
    """The file anew from its header, without the eight bytes before it, and its data."""

    def do(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        replace(folder / "model.safetensors", change(data[8:end], data[end:]))

    return do


def _with_header(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def _key_twice(header: bytes, data: bytes) -> bytes:
    other = json.loads(header)[W3 + "weight"]
    return _with_header(header[:-1].rstrip(b" }") + b"}," + json.dumps({W1 + "weight": other})[1:].encode(), data)


def _other_file(folder: Path) -> None:
    """An index beside the one file, which names another with zeros in it."""
    held = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros_like(t) for name, t in held.items()}, folder / "other.safetensors", {"format": "pt"})
    (folder / "other.safetensors").chmod(0o644)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(held, "other.safetensors")})
    )


def _outside(index: dict[str, Any]) -> None:
    index["weight_map"]["lm_head.weight"] = "../model-00001-of-00002.safetensors"


def _mistral(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    save_file({"output.weight": held["lm_head.weight"]}, folder / "consolidated.safetensors")
    (folder / "consolidated.safetensors").chmod(0o644)
    (folder / "params.json").write_text('{"dim": 256}')


def _shards_exchanged(folder: Path) -> None:
    in_shards(folder)
    one, other = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _shard_of_another(folder: Path) -> None:
    """The second shard is that of an older save, with every tensor negated."""
    in_shards(folder)
    path = folder / "model-00002-of-00002.safetensors"
    save_file({name: _negated(t) for name, t in load_file(path).items()}, path, {"format": "pt"})
    path.chmod(0o644)


def _negated(tensor: torch.Tensor) -> torch.Tensor:
    return (-tensor.float()).to(tensor.dtype) if tensor.is_floating_point() else tensor


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(t: Tensors) -> None:
        for name in [n for n in t if old in n]:
            t[name.replace(old, new)] = t.pop(name)

    return tensors(change)


def _again(t: Tensors) -> None:
    for name in [n for n in t if n.startswith(MOE.format(1) + "experts.7.")]:
        t[name.replace("experts.7.", "experts.8.")] = t[name].clone()


HEADERS = [
    Damage(
        "a type that is not one", "fp8", edit_header(lambda h: h[W2 + "weight"].update(dtype="F8_E4M3FN")), "", True
    ),
    Damage(
        "norms called F16",
        "bf16",
        edit_header(lambda h: h[LAYER.format(0) + "input_layernorm.weight"].update(dtype="F16")),
        LAYER.format(0) + "input_layernorm.weight",
        False,
    ),
    Damage(
        "codes called signed",
        "nvfp4",
        edit_header(lambda h: h[W2 + "weight_packed"].update(dtype="I8")),
        W2 + "weight_packed",
        True,
    ),
    Damage(
        "codes called floats", "awq", edit_header(lambda h: h[W2 + "qweight"].update(dtype="F32")), W2 + "qweight", True
    ),
    Damage(
        "block scales called unsigned",
        "nvfp4",
        edit_header(lambda h: h[W2 + "weight_scale"].update(dtype="U8")),
        W2 + "weight_scale",
        True,
    ),
    Damage(
        "scales of infinite exponents",
        "fp8",
        edit_header(lambda h: h[W1 + "weight"].update(dtype="F8_E4M3FNUZ")),
        "",
        True,
    ),
    Damage(
        "a shape the other way round",
        "bf16",
        edit_header(lambda h: h[LAYER.format(0) + "self_attn.v_proj.weight"]["shape"].reverse()),
        LAYER.format(0) + "self_attn.v_proj.weight",
        True,
    ),
    Damage(
        "a shape of one dimension more",
        "fp8",
        edit_header(lambda h: h[W2 + "weight"]["shape"].append(1)),
        W2 + "weight",
        True,
    ),
    Damage("a tensor twice in the header", "fp8", raw(_key_twice), "", True),
    Damage(
        "bytes after the last tensor",
        "fp8",
        raw(lambda h, d: _with_header(h, d + b"\0" * 64)),
        "model.safetensors",
        True,
    ),
    Damage(
        "a header of a gigabyte",
        "fp8",
        raw(lambda h, d: (1 << 30).to_bytes(8, "little") + h + d),
        "model.safetensors",
        True,
    ),
    Damage("an empty file", "fp8", raw(lambda h, d: b""), "model.safetensors", True),
    Damage(
        "a pointer of Git LFS",
        "nvfp4",
        raw(lambda h, d: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "model.safetensors",
        True,
    ),
    Damage("the last bytes zeros", "fp8", raw(lambda h, d: _with_header(h, d[:-70000] + bytes(70000))), "", True),
    Damage(
        "a page of zeros within",
        "bf16",
        raw(lambda h, d: _with_header(h, d[:4096] + bytes(4096) + d[8192:])),
        "",
        False,
    ),
    Damage("an index to another file", "fp8", _other_file, "", True),
    Damage("an index out of the folder", "fp8", lambda f: in_shards(f, _outside), "", True),
    Damage("shards exchanged", "fp8", _shards_exchanged, "", True),
    Damage("a shard of another save", "fp8", _shard_of_another, "", False),
    Damage(
        "the index as text",
        "fp8",
        lambda f: in_shards(f, lambda i: i.update(weight_map="all")),
        "model.safetensors.index.json",
        True,
    ),
    Damage("weights as Mistral names them", "fp8", _mistral, "consolidated.safetensors", True),
    Damage(
        "an old pickle beside",
        "fp8",
        lambda f: (f / "pytorch_model.bin").write_bytes(b"PK\3\4") and None,
        "pytorch_model.bin",
        True,
    ),
    Damage("names in another case", "fp8", _renamed("q_proj", "Q_proj"), "q_proj", True),
    Damage("a prefix too many", "bf16", _renamed("model.layers.1", "model.model.layers.1"), "layers.1", True),
    Damage("an expert too many", "fp8", tensors(_again), "experts.8", True),
    Damage(
        "a layer left over",
        "bf16",
        put(LAYER.format(2) + "input_layernorm.weight", torch.ones(256, dtype=torch.bfloat16)),
        "layers.2",
        True,
    ),
    Damage(
        "a bias that nothing reads", "bf16", put(Q + "bias", torch.ones(256, dtype=torch.bfloat16)), Q + "bias", True
    ),
    Damage(
        "the order of channels",
        "awq",
        put(W2 + "g_idx", torch.arange(256, dtype=torch.int32).flip(0)),
        W2 + "g_idx",
        True,
    ),
    Damage(
        "the order of channels",
        "awq-packed",
        put(W2 + "weight_g_idx", torch.arange(256, dtype=torch.int32).flip(0)),
        W2 + "weight",
        True,
    ),
    Damage(
        "inverse frequencies",
        "fp8",
        put(LAYER.format(0) + "self_attn.rotary_emb.inv_freq", torch.ones(16)),
        "inv_freq",
        False,
    ),
]
