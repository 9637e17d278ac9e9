"""Ordinary families as GGUF files: the line of one takes it through the comparison with llama.cpp's converter, its
logits in llama.cpp, and `verify` of sound and damaged files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ordinary:
    """changes: of the tiny config (tests.every_family). meant: keys in which our files differ from the converter's.
    close: how far llama.cpp's logits may be from transformers', of their norm; ggml looks GELU up in half precision."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    meant: frozenset[str] = frozenset()
    close: float = 1e-4


_OF_GEMMA = frozenset({"tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_space_prefix", "gemma.rope.freq_base"})
"""The converter gives every vocabulary CodeGemma's tokens, and no rotary base."""

ORDINARY: Mapping[str, Ordinary] = {
    "arcee": Ordinary(),
    "dots1": Ordinary({"num_key_value_heads": 4}, frozenset({"dots1.expert_gating_func"})),
    "gemma": Ordinary(meant=_OF_GEMMA, close=1e-3),
    "seed_oss": Ordinary(),
    "smollm3": Ordinary(),
}
"""By transformers' model type."""
