"""Small checkpoints made for a test."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_model(
    folder: Path,
    shards: Sequence[Mapping[str, torch.Tensor]],
    texts: Mapping[str, str] | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """One shard becomes model.safetensors, several become numbered files with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config if config is not None else {"model_type": "llama"}))
    for name, text in (texts or {}).items():
        (folder / name).write_text(text)
    if len(shards) == 1:
        save_file(dict(shards[0]), folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(dict(shard), folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
