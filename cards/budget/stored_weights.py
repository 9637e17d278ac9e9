"""Existing artifacts: their config and the bytes of their tensors, from file headers alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cards.budget.gguf_config import gguf_weights, tensor_bytes
from sixfold.artifact.plan import PROJECTOR
from sixfold.artifact.workspace import read_json
from sixfold.boundary.json_text import read_json_file
from sixfold.checkpoint.config_bounds import check_bounds
from sixfold.checkpoint.storage.safetensors_header import read_header
from sixfold.errors import SixfoldError

CONFIG = "config.json"
_MANIFEST = "manifest.json"
_QUANTIZED = {"awq", "compressed-tensors", "gptq", "modelopt"}
"""quant_method of what other tools made; sources stored in FP8 or MXFP4 have others."""
_NO_MODEL = ("imatrix", PROJECTOR)
"""Begins the names of GGUF files that hold no model."""


@dataclass(frozen=True)
class Artifact:
    """name: of its recipe, or of the file. weights: bytes of all tensors. engines: that it is made for. projector:
    bytes among the weights, of a GGUF file beside it that llama.cpp sees with."""

    name: str
    weights: int
    engines: tuple[str, ...]
    projector: int = 0


def artifacts_at(place: Path) -> tuple[Mapping[str, Any], list[Artifact]] | None:
    """The config and the artifacts at a path: a GGUF file, a folder of them, or a quantized Hugging Face folder. None
    where it is none of them. Raises SixfoldError where a file cannot be read."""
    if place.suffix.lower() == ".gguf" and place.is_file():
        return _gguf([place])
    if not place.is_dir():
        return None
    config = read_config(place / CONFIG)
    if config is None:
        files = sorted(p for p in place.glob("*.gguf") if not p.name.startswith(_NO_MODEL))
        return _gguf(files) if files else None
    manifest = read_json(place / _MANIFEST)
    if manifest is not None and "recipe" not in manifest:  # a pruned checkpoint's, which is a model to be planned
        manifest = None
    method = (config.get("quantization_config") or {}).get("quant_method")
    if manifest is None and method not in _QUANTIZED:
        return None
    headers = [read_header(place, path.name) for path in sorted(place.glob("*.safetensors"))]
    weights = sum(tensor.nbytes for header in headers for tensor in header.tensors)
    if manifest is None:
        return config, [Artifact(place.name, weights, ("vLLM", "SGLang"))]
    recipe = manifest["recipe"]
    return config, [Artifact(recipe["name"], weights, tuple(recipe["engines"]))]


def read_config(path: Path) -> dict[str, Any] | None:
    """The object that a JSON file holds; None where the path is no such file."""
    if path.suffix != ".json" or not path.is_file():
        return None
    config = read_json_file(path)
    if not isinstance(config, dict):
        raise SixfoldError(f"{path} is not a JSON object", "give a model's config.json")
    check_bounds(config, str(path))
    return config


def _gguf(files: list[Path]) -> tuple[Mapping[str, Any], list[Artifact]]:
    found = [(path.stem, *gguf_weights(path)) for path in files]
    beside = files[0].parent.glob(f"{PROJECTOR}*.gguf")
    projector = max((sum(tensor_bytes(path).values()) for path in beside), default=0)
    configs = {json.dumps(config, sort_keys=True) for _, config, _ in found}
    if len(configs) > 1:
        raise SixfoldError(f"{files[0].parent} has GGUF files of several models", "give one file")
    return found[0][1], [Artifact(name, weights + projector, ("llama.cpp",), projector) for name, _, weights in found]
