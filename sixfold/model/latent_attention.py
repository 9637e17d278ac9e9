"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): kv_b_proj and what its two halves read.

kv_b_proj makes every head's key and value of a latent. An engine that keeps latents in its cache never multiplies them
by it as a whole: the rows of keys, transposed, take the query to the latent (llama.cpp's attn_k_b), and the rows of
values take what attention gathers of the latents to the head's output (attn_v_b). So the halves read other activations
than the Linear in a checkpoint: the query without its rotary part, and the attended latent, each its own per head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sixfold.model.architecture import Linear
from sixfold.model.gguf.architectures import architecture_named, known_type
from sixfold.model.gguf.arrangements import SPLIT_LATENTS
from sixfold.model.source import Source

HALVES = ("query", "attended")
"""What the half of keys reads, and what the half of values reads."""


@dataclass(frozen=True)
class LatentHeads:
    """heads: how many. key: channels of a head's query and key without the rotary part. latent: channels."""

    heads: int
    key: int
    latent: int

    def channels(self, half: str) -> int:
        return self.key if half == "query" else self.latent


def latent_heads(config: Mapping[str, Any], linear: Linear) -> LatentHeads | None:
    """Of a kv_b_proj; None of every other Linear. config: of config.json."""
    text = config.get("text_config") or config
    if linear.part != "kv_b_proj" or not text.get("qk_nope_head_dim") or not text.get("v_head_dim"):
        return None
    key, value = int(text["qk_nope_head_dim"]), int(text["v_head_dim"])
    return LatentHeads(linear.out_features // (key + value), key, linear.in_features)


def latent_linears(source: Source) -> dict[str, LatentHeads]:
    """On-disk name of every kv_b_proj -> its heads; {} of models that no engine here holds split, whose attention is
    left unobserved."""
    if architecture_named(known_type(source.checkpoint.config) or "") not in SPLIT_LATENTS:
        return {}
    found = {li.name: latent_heads(source.checkpoint.config, li) for li in source.architecture.linears}
    return {name: heads for name, heads in found.items() if heads is not None}
