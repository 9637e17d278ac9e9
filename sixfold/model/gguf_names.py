"""What llama.cpp calls the tensors of a checkpoint: for the writers of GGUF files, the exporter and the imatrix writer.

gguf-py knows the names of every architecture; what it lacks is which of transformers' model types is which of its
architectures. That table is here, and nothing else about an architecture (exporters/ggml has the rest).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sixfold.errors import SixfoldError

GGUF_ARCHITECTURES: Mapping[str, str] = {
    "afmoe": "afmoe",
    "arcee": "arcee",
    "cohere": "command-r",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "dots1": "dots1",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone4": "exaone4",
    "exaone_moe": "exaone-moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "glm4": "glm4",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "gpt_oss": "gpt-oss",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "hunyuan_v1_dense": "hunyuan-dense",
    "lfm2": "lfm2",
    "llama": "llama",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "minimax_m2": "minimax-m2",
    "ministral3": "mistral3",
    "mistral": "llama",
    "mistral3": "mistral3",
    "mixtral": "llama",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2_5_vl": "qwen2vl",
    "qwen2_moe": "qwen2moe",
    "qwen2_vl": "qwen2vl",
    "qwen3": "qwen3",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_5_text": "qwen35",
    "qwen3_moe": "qwen3moe",
    "qwen3_vl": "qwen3vl",
    "qwen3_vl_moe": "qwen3vlmoe",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}
"""transformers' model_type -> llama.cpp's general.architecture; of a checkpoint that sees or hears, its decoder's."""

NOT_CAUSAL = ("paligemma", "shieldgemma2")
"""Models around a decoder that do not run it as it runs alone: their prompts see themselves whole."""

_RENAMED: tuple[tuple[str, str], ...] = (
    (r"^(model\.language_model|language_model\.model|model\.text_model)\.", "model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"\.e_score_correction_bias$", ".e_score_correction.bias"),
    (r"\.expert_bias$", ".expert_bias.bias"),
    (r"\.sinks$", ".sinks.weight"),
    (r"\.dt_bias$", ".dt_proj.bias"),
    (r"\.experts\.\d+\.", ".experts."),
    (r"\.block_sparse_moe\.experts\.(gate|up|down)_proj\.", r".mlp.experts.\1_proj."),
)
"""What gguf-py's table calls otherwise than checkpoints do."""

_DECODER = re.compile(r"(model\.)?(language|text)_model\.|model\.(layers|embed_tokens|norm)\.|lm_head\.")
"""How the tensors of a language model begin where towers for pictures and sound lie beside it."""

SPLIT_LATENTS = ("deepseek2",)
"""Architectures that hold kv_b_proj as attn_k_b (transposed) and attn_v_b (see sixfold.model.latent_attention)."""

DELTA_NETS = ("qwen35", "qwen35moe")
"""Architectures whose delta nets have their values in another order than on disk."""

LATENT_HALVES: Mapping[str, str] = {"attn_k_b": "query", "attn_v_b": "attended"}
"""What each half reads, as sixfold.model.latent_attention calls it."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_NEVER_STORED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Buffers that some checkpoints carry and that llama.cpp computes itself."""


def known_type(config: Mapping[str, Any]) -> str | None:
    """The model type of GGUF_ARCHITECTURES that config.json is of: of a model that sees or hears and is not listed, its
    decoder's, which computes what it does alone. None where neither is listed."""
    stated = str(config.get("model_type"))
    decoder = str((config.get("text_config") or {}).get("model_type")) if stated not in NOT_CAUSAL else ""
    return next((kind for kind in (stated, decoder) if kind in GGUF_ARCHITECTURES), None)


def gguf_architecture(config: Mapping[str, Any]) -> str:
    """llama.cpp's name of the architecture of a config.json. Raises SixfoldError where it is not supported."""
    kind = known_type(config)
    if kind is None:
        raise SixfoldError(
            f"no GGUF layout is known for model_type {config.get('model_type')}",
            f"GGUF is supported for {', '.join(sorted(GGUF_ARCHITECTURES))}; leave the gguf recipes out for this model",
        )
    return GGUF_ARCHITECTURES[kind]


def decoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the language model in one mapping, wherever config.json keeps them, as llama.cpp's converter reads
    them; tie_word_embeddings is that of the whole, and model_type what `known_type` says."""
    tied = config.get("tie_word_embeddings")
    whole = {"model_type": known_type(config) or config.get("model_type")}
    whole |= {} if tied is None else {"tie_word_embeddings": tied}
    return {**config, **(config.get("text_config") or {}), **whole}


def latent_halves(config: Mapping[str, Any], gguf_name: str) -> tuple[str, ...]:
    """`blk.N.attn_k_b.weight` and `blk.N.attn_v_b.weight` for a kv_b_proj that the architecture holds split; () for any
    other tensor.

    llama-imatrix records the halves and not the whole, and llama-quantize weights each head by a row of its own.
    """
    if gguf_architecture(config) not in SPLIT_LATENTS or ".attn_kv_b." not in gguf_name:
        return ()
    return tuple(gguf_name.replace("attn_kv_b", half) for half in LATENT_HALVES)


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


def gguf_tensor_names(config: Mapping[str, Any], tensor_names: Iterable[str]) -> dict[str, str]:
    """On-disk tensor name -> GGUF tensor name, in the order given; all experts of a layer share one stacked name.

    Left out, as llama.cpp does not hold them: layers beyond num_hidden_layers and other multi-token-prediction
    modules, stored rotary frequencies, an lm_head that is tied to the embeddings, and towers beside the decoder.

    kv_b_proj of multi-head latent attention gets its one name `blk.N.attn_kv_b.weight`; see `latent_halves`.

    Raises SixfoldError for an unknown architecture and for a tensor that it has no name for.
    """
    import gguf

    architecture = gguf_architecture(config)
    sees, config = bool(config.get("text_config")), decoder_config(config)
    name_of_arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = config["num_hidden_layers"]
    mapping = gguf.get_tensor_name_map(name_of_arch[architecture], layers)
    tied = bool(config.get("tie_word_embeddings"))

    def found(name: str) -> str | None:
        """None for what is left out."""
        layer = _LAYER.search(name)
        if (layer and int(layer[1]) >= layers) or "mtp" in name.split("."):
            return None
        if name.endswith(_NEVER_STORED) or (tied and name.endswith("lm_head.weight")):
            return None
        if sees and not _DECODER.match(name):
            return None
        known = name
        for pattern, replacement in _RENAMED:
            known = re.sub(pattern, replacement, known)
        gguf_name: str | None = mapping.get_name(known, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise SixfoldError(
                f"GGUF architecture {architecture} has no name for tensor {name}",
                "leave the gguf recipes out for this model",
            )
        return gguf_name

    names: dict[str, str] = {}
    of_any_expert: dict[str, str | None] = {}
    for name in tensor_names:
        stacked = _EXPERT.sub(".experts.", name, count=1)
        if stacked not in of_any_expert:
            of_any_expert[stacked] = found(name)
        gguf_name = of_any_expert[stacked]
        if gguf_name is not None:
            names[name] = gguf_name
    return names
