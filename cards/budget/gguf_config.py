"""What a budget needs from a GGUF file: bytes of its tensors, and its hyperparameters as fields of a config.json."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sixfold.boundary.gguf_header import read_gguf_header
from sixfold.errors import SixfoldError

_MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "minimax-m2": "minimax_m2",
    "olmoe": "olmoe",
    "glm4moe": "glm4_moe",
}
"""GGUF architecture -> transformers' model type; those that keep keys and values of every token in every layer."""

_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


def tensor_bytes(path: Path) -> dict[str, int]:
    """Name -> bytes of every tensor of a file, which may be a part. Raises SixfoldError where it cannot be read."""
    stat = path.stat()
    return _tensor_bytes(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _tensor_bytes(path: Path, nbytes: int, changed: int) -> dict[str, int]:
    """Each state of a file is read once: its header holds all of the vocabulary."""
    return {tensor.name: tensor.nbytes for tensor in read_gguf_header(path).tensors}


def gguf_weights(path: Path) -> tuple[dict[str, Any], int]:
    """Fields of a config.json, and bytes of all tensors; of a split file, of its part alone.
    Raises SixfoldError where the file cannot be read, or its architecture's cache is not known."""
    header = read_gguf_header(path)
    parts = header.keys.get("split.count", 1)
    if not isinstance(parts, int) or parts > 1:
        raise SixfoldError(f"{path} is one part of a split file", "give the model it was made from, and its format")
    return _config(path, header.keys), sum(tensor.nbytes for tensor in header.tensors)


def _config(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    architecture = values.get("general.architecture")
    model_type = _MODEL_TYPES.get(str(architecture))
    if model_type is None:
        raise SixfoldError(
            f"the cache of the GGUF architecture {architecture!r} of {path} is not known, and not guessed",
            "give the folder or config.json of the model it was made from",
        )
    found = {ours: values[key] for name, ours in _FIELDS.items() if (key := f"{architecture}.{name}") in values}
    per_layer = sorted(name for name, value in found.items() if isinstance(value, list))
    if per_layer:
        raise SixfoldError(
            f"{per_layer[0]} of {path} differs between layers, which is not known of {architecture}",
            "give the folder or config.json of the model it was made from",
        )
    unsound = sorted(name for name, value in found.items() if not isinstance(value, int) or isinstance(value, bool))
    if unsound:
        raise SixfoldError(f"{unsound[0]} of {path} is no whole number", "copy or download the file again")
    tokens = values.get("tokenizer.ggml.tokens")
    size = values.get(f"{architecture}.vocab_size") or (len(tokens) if isinstance(tokens, list) else 0)
    return {**found, "model_type": model_type, "vocab_size": size}
