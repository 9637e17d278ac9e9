"""Artifacts as a run leaves them, made of a few kilobytes each, and what publishing them must leave on a Hub."""

import hashlib
import random
from pathlib import Path
from typing import Any

from sixfold.artifact.manifest import FileRecord, inputs_of, manifest_of
from sixfold.artifact.verification_record import FILE, SCHEMA, content_digest, verdict_name
from sixfold.artifact.workspace import read_json, write_json
from sixfold.recipes.recipe import load_recipes
from tests.publishing.fake_hub.state import Hub

MODEL = "tiny-REAP"
VARIANTS = ("bf16", "fp8", "awq", "gguf-q8_0", "gguf-q4_k_m")
_SIZES = {"bf16": 6000, "fp8": 4000}
"""Bytes of a weight file, 3000 of any other."""
CARD = """---
license: apache-2.0
tags:
- sixfold
---
# {title}

Text.
"""


def bytes_of(seed: str, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def make_model(out: Path, variants: tuple[str, ...] = VARIANTS, **changed: Any) -> Path:
    """<out>/<model> with these variants; see `make_variant`."""
    for variant in variants:
        make_variant(out / MODEL, variant, **changed)
    return out / MODEL


def make_variant(
    root: Path,
    variant: str,
    *,
    weights: str = "",
    overrides: tuple[str, ...] = (),
    shards: int = 2,
    failures: tuple[str, ...] = (),
    verified: bool = True,
    nbytes: int = 0,
) -> Path:
    """nbytes: of each weight file; a few thousand by default. weights: other text makes other bytes. failures: what its
    verification found; verified: whether there was one."""
    (recipe,) = load_recipes(variant, overrides)
    folder = root / f"{MODEL}-{recipe.suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    gguf = recipe.exporter == "gguf"
    if gguf:
        names = [f"{MODEL}-{recipe.scheme}.gguf"]
        (folder / "imatrix.gguf").write_bytes(bytes_of("imatrix", 900))
    else:
        names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    size = nbytes or _SIZES.get(variant, 3000)
    files = {name: bytes_of(f"{variant} {name} {weights}", size + 7 * i) for i, name in enumerate(names)}
    if not gguf:
        files |= {"config.json": b'{"model_type": "llama"}\n', "tokenizer.json": b"{}\n"}
    files["LICENSE"] = b"Apache License\n"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    records = {name: FileRecord(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    inputs = inputs_of(recipe, "f" * 64, "", None)
    manifest_name = f"{names[0]}.manifest.json" if gguf else "manifest.json"
    write_json(folder / manifest_name, manifest_of(variant, MODEL, inputs, None, records, ()))
    write_json(folder / f"{manifest_name.removesuffix('manifest.json')}run.json", {"host": "secret-host"})
    if verified:
        pass_verification(folder, manifest_name, failures)
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text(CARD.format(title=folder.name))
    return folder


def pass_verification(
    folder: Path, manifest_name: str, failures: tuple[str, ...] = (), *, measured: bool = True
) -> None:
    """What `sixfold verify` leaves of an artifact, as far as publishing and cards read it; measured: of its divergence
    too."""
    manifest = read_json(folder / manifest_name)
    assert manifest is not None
    score = {
        "mean_kl": 0.0125, "median_kl": 0.01, "p99_kl": 0.2, "max_kl": 1.0, "top1": 0.97, "top5": 0.99,
        "perplexity": 8.1, "source_perplexity": 8.0, "domains": {"code": 0.01}, "layers": [0.1],
    }  # fmt: skip
    divergence = {"tokens": 100, "windows": 1, "window": 100, "dtype": "float32", "scores": {"weights": score}}
    said = {"check": "c", "where": "here", "consequence": "", "remedy": "", "severity": "error"}
    result = {
        "schema": SCHEMA,
        "artifact": {"name": folder.name, "kind": "folder", "files": {}, "content": content_digest(manifest)},
        "source": {"name": MODEL, "fingerprint": manifest["source"]["fingerprint"]},
        "passed": not failures,
        "gates": manifest["recipe"]["gates"],
        "allowed": {},
        "findings": [{**said, "what": what} for what in failures],
        "divergence": divergence if measured else None,
        "smoke": None,
        "weights": None,
        "tensor_parallel": None,
        "versions": manifest["versions"],
    }
    write_json(folder / verdict_name(manifest_name), result)
    assert verdict_name("manifest.json") == FILE


def published_files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder that is for readers."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.endswith("run.json") and not path.name.startswith(".")
    }


def assert_whole(hub: Hub, root: Path, release: int = 1, org: str = "lab") -> None:
    """Every repository holds what its folder holds and nothing else, each release is one commit with one tag, and the
    collection has each repository once, in order."""
    folders = sorted(path for path in root.iterdir() if path.name.startswith(MODEL))
    for folder in folders:
        name = f"{org}/{folder.name}"
        repository = hub.repositories[name]
        assert hub.files(name) == published_files(folder)
        assert len(repository.commits) == len(repository.history) == release + 1
        assert repository.history[0] == "initial commit"
        assert repository.tags == {f"v{n}": oid for n, oid in enumerate(list(repository.commits)[1:], 1)}
        assert list(repository.branches) == ["main"]
    assert sorted(hub.repositories) == [f"{org}/{folder.name}" for folder in folders]
    (collection,) = hub.collections.values()
    names = [item["id"] for item in collection["items"]]
    order = [f"{org}/{MODEL}-{suffix}" for suffix in ("BF16", "FP8", "AWQ", "GGUF")]
    assert names == [name for name in order if name in hub.repositories]
    assert all(item["note"]["text"] for item in collection["items"])
