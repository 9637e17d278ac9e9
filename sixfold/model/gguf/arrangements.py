"""Tensors that llama.cpp holds in parts, or with rows or columns in another order than transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sixfold.model.gguf.architectures import decoder_config, gguf_architecture

SPLIT_LATENTS = ("deepseek2", "deepseek32", "glm-dsa", "glm5-next", "hy_v4", "kimi-linear", "mistral4")
"""Architectures that hold kv_b_proj as attn_k_b (transposed) and attn_v_b (see sixfold.model.latent_attention)."""

DELTA_NETS = ("qwen35", "qwen35moe", "qwen4exp")
"""Architectures whose delta nets have their values in another order than on disk."""

LATENT_HALVES: Mapping[str, str] = {"attn_k_b": "query", "attn_v_b": "attended"}
"""What each half reads, as sixfold.model.latent_attention calls it."""


def latent_halves(config: Mapping[str, Any], gguf_name: str) -> tuple[str, ...]:
    """`blk.N.attn_k_b.weight` and `blk.N.attn_v_b.weight` for a kv_b_proj that the architecture holds split; () for any
    other tensor.

    llama-imatrix records the halves and not the whole, and llama-quantize weights each head by a row of its own.
    """
    if gguf_architecture(config) not in SPLIT_LATENTS or ".attn_kv_b." not in gguf_name:
        return ()
    return tuple(gguf_name.replace("attn_kv_b", half) for half in LATENT_HALVES)


def row_parts(gguf_name: str) -> tuple[str, ...]:
    """`blk.N.a.weight` and `blk.N.b.weight` for `blk.N.a+b.weight`: the rows of one matrix on disk, held as two, or
    more; () for any other tensor."""
    block, layer, held = (gguf_name.split(".", 2) + [""] * 3)[:3]
    names, _, kind = held.rpartition(".")
    return tuple(f"{block}.{layer}.{name}.{kind}" for name in names.split("+")) if "+" in names else ()


def latent_half(gguf_name: str) -> str | None:
    """What a tensor reads that is half of a kv_b_proj; None for any other tensor."""
    return LATENT_HALVES.get(gguf_name.split(".")[-2])


@dataclass(frozen=True)
class ValueHeads:
    """Of a delta net that has several values for each key: transformers keeps those of a key together, llama.cpp has
    the first of every key, then the second."""

    keys: int
    each: int
    channels: int

    def tiled(self, values: torch.Tensor) -> torch.Tensor:
        """[..., keys * each * channels], from transformers' order to llama.cpp's."""
        return values.unflatten(-1, (self.keys, self.each, self.channels)).transpose(-3, -2).flatten(-3)

    def untiled(self, values: torch.Tensor) -> torch.Tensor:
        """Back again."""
        return ValueHeads(self.each, self.keys, self.channels).tiled(values)


def tiled_inputs(config: Mapping[str, Any], gguf_name: str) -> ValueHeads | None:
    """How the input channels of a tensor are ordered otherwise than on disk; None where they are not."""
    if gguf_architecture(config) not in DELTA_NETS or not gguf_name.endswith(".ssm_out.weight"):
        return None
    config = decoder_config(config)
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    return ValueHeads(keys, values // keys, config["linear_value_head_dim"]) if values > keys else None
