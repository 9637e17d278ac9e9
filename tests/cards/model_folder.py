"""A model's output folder, written by hand: what a run leaves behind, as far as cards read it."""

import json
from pathlib import Path
from typing import Any

from sixfold.artifact.verification_record import SCHEMA, content_digest

SOURCE = {"fingerprint": "f" * 64, "revision": ""}
PROVENANCE = {
    "base_model": "someone/Original",
    "license": "other",
    "license_name": "their-license",
    "license_link": "LICENSE",
    "method": "25 % of the experts pruned with REAP",
    "authors": "a small lab",
}
EXPORTERS = {"FP8": "fp8", "NVFP4": "nvfp4", "BF16": "bf16", "GGUF": "gguf"}
SCHEMES = {"FP8": "FP8_DYNAMIC", "NVFP4": "NVFP4A16", "BF16": "BF16"}


def write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def manifest(suffix: str, scheme: str = "", files: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    """scheme: of a GGUF file, whose name it ends."""
    exporter, scheme = EXPORTERS[suffix], scheme or SCHEMES[suffix]
    weights = f"Tiny-{scheme}.gguf" if exporter == "gguf" else "model.safetensors"
    recipe = {
        "name": f"gguf-{scheme.lower()}" if exporter == "gguf" else exporter,
        "suffix": suffix,
        "title": f"{scheme} weights",
        "exporter": exporter,
        "scheme": scheme,
        "hardware": [],
    }
    listed = files or {weights: 1_234_567_890}
    return {
        "model": "Tiny",
        "variant": recipe["name"],
        "source": SOURCE,
        "recipe": recipe,
        "recipe_digest": "d" * 64,
        "statistics": None,
        "versions": {"sixfold": "0.1.0"},
        "notes": ["2 Linears stay in BF16"],
        "files": {name: {"bytes": nbytes, "sha256": "a" * 64} for name, nbytes in listed.items()},
        **changes,
    }


def put(root: Path, content: dict[str, Any], result: dict[str, Any] | None = None, **config: Any) -> Path:
    """Write an artifact's manifest, its verification where one is given, and its config; returns its folder."""
    recipe = content["recipe"]
    folder = root / f"Tiny-{recipe['suffix']}"
    prefix = f"Tiny-{recipe['scheme']}.gguf." if recipe["exporter"] == "gguf" else ""
    write(folder / f"{prefix}manifest.json", content)
    if not prefix:
        write(folder / "config.json", config)
    if result is not None:
        write(folder / f"{prefix}verification.json", result)
    return folder


def source(root: Path, hub: str = "", **provenance: str) -> None:
    write(root / "source/source.json", {"hub": hub, "provenance": provenance, "stated": {}, "fingerprint": "f" * 64})
    write(root / "source/config.json", {"max_position_embeddings": 4096})


def result(of: dict[str, Any], mean_kl: float = 0.0234567, **changes: Any) -> dict[str, Any]:
    """verification.json of a manifest's artifact."""
    weights = {
        "mean_kl": 0.01, "median_kl": 0.005, "p99_kl": 0.5, "top1": 0.99, "top5": 0.98,
        "perplexity": 13.7, "source_perplexity": 13.6, "domains": {"code": 0.02}, "layers": [0.01],
    }  # fmt: skip
    scores = {"weights": weights, "engine": {**weights, "mean_kl": mean_kl}}
    return {
        "schema": SCHEMA,
        "artifact": {"name": "Tiny", "kind": "folder", "files": {}, "content": content_digest(of)},
        "source": {"name": "Tiny", **SOURCE},
        "passed": True,
        "weights": None,
        "gates": {"max_kl_ratio": 1.25, "max_mean_kl": None, "min_top1": None},
        "allowed": {"max_mean_kl": 0.03, "min_top1": None},
        "findings": [],
        "divergence": {"tokens": 20000, "windows": 40, "window": 512, "dtype": "float32", "scores": scores},
        "smoke": None,
        "tensor_parallel": None,
        **changes,
    }


def pruned(root: Path) -> None:
    """What the source folder keeps of a checkpoint that was pruned here."""
    cost = {"tokens": 20000, "perplexity_before": 12.0, "perplexity_after": 15.0, "kl": 0.25, "top1": 0.8}
    plan = {"model": "Big", "criterion": "reap", "layers": [{"layer": 0, "experts": 8, "kept": [0, 1, 2]}]}
    written = {
        "plan": plan,
        "manifest": {"notes": []},
        "verification": {"cost": {"all": cost}, "structure": {"layers": [{"vectors": {}}]}},
    }
    for name, content in written.items():
        write(root / f"source/pruning/{name}.json", content)


def since_original(found: dict[str, Any], mean_kl: float) -> dict[str, Any]:
    """A verification.json with the unpruned model compared with, too."""
    divergence = found["divergence"]
    score = {**divergence["scores"]["engine"], "mean_kl": mean_kl, "top1": 0.75, "source_perplexity": 12.0}
    original = {
        "name": "Big",
        "fingerprint": "b" * 64,
        "scores": {"weights": {**score, "mean_kl": 9.0}, "engine": score},
    }
    return {**found, "divergence": {**divergence, "original": original}}


def finding(what: str, severity: str) -> dict[str, str]:
    where, consequence = "gates.max_mean_kl", "it answers worse than it should"
    said = {"check": "gate.failed", "where": where, "what": what, "consequence": consequence, "remedy": ""}
    return {**said, "severity": severity}


def prompt(name: str, problem: str = "") -> dict[str, Any]:
    """Of a smoke test; passed where there is no problem."""
    texts = {"prompt": "p", "rule": "r", "source": "s", "answer": "a"}
    return {
        "name": name,
        "problem": problem,
        "passed": not problem,
        "source_holds": True,
        "holds": not problem,
        **texts,
    }
