"""Architectures of attention and one feed-forward matrix of each kind."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from gguf import GGUFWriter

from exporters.ggml.architectures.entry import (
    GRANITE_MIXERS,
    GRANITE_SHARED,
    NORMS,
    SCALES,
    VOCAB,
    WINDOW,
    Entry,
    deepstack,
    granite_keys,
    granite_replaced,
    granite_vocabulary,
    half_rotated,
    llama_keys,
    windows,
    without_scaling,
)
from exporters.ggml.architectures.hrm import HRM
from exporters.ggml.architectures.hunyuan import HUNYUAN
from exporters.ggml.architectures.phi import PHI
from exporters.ggml.architectures.rotary import Config, head_size, rope_of, rotary_size
from sixfold.errors import SixfoldError


def _gemma3(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config["sliding_window"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


_GEMMA_3N = {"altup_num_inputs": 4, "hidden_size_per_layer_input": 256, "laurel_rank": 64}
"""Sizes that llama.cpp takes for given."""


def _gemma3n(writer: GGUFWriter, config: Config) -> None:
    """Gemma 3 with streams that a low rank joins, further inputs for each layer, and gates of which some are cut off
    below what so many of them are."""
    different = {name: config[name] for name, size in _GEMMA_3N.items() if config[name] != size}
    if different:
        raise SixfoldError(
            f"llama.cpp does not load a gemma3n whose config.json says {different}", "leave the gguf recipes out"
        )
    _gemma3(writer, config)
    writer.add_altup_active_idx(config["altup_active_idx"])
    writer.add_altup_num_inputs(config["altup_num_inputs"])
    writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    writer.add_shared_kv_layers(config["num_kv_shared_layers"])
    shares = torch.tensor(config["activation_sparsity_pattern"], dtype=torch.float32)
    writer.add_activation_sparsity_scale(torch.distributions.Normal(0.0, 1.0).icdf(shares).tolist())
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])


def _mistral3(writer: GGUFWriter, config: Config) -> None:
    llama_keys(writer, config)
    rope = rope_of(config)
    if rope.get("llama_4_scaling_beta") is not None:
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim") is not None:
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])


def _gemma2_scale(config: Config) -> int:
    """46 layers are the 27B, whose queries are scaled by another size than a head's."""
    heads = int(config["hidden_size"] // config["num_attention_heads"])
    return heads if config["num_hidden_layers"] == 46 else head_size(config)


def _gemma3_scale(config: Config) -> int:
    """62 layers are the 27B, whose queries are scaled by another size than a head's."""
    heads = int(config["hidden_size"] // config["num_attention_heads"])
    return heads if config["num_hidden_layers"] == 62 else head_size(config)


def _olmo(writer: GGUFWriter, config: Config) -> None:
    """Its norms have no weights, and its config does not say how close to zero they come."""
    writer.add_layer_norm_eps(1e-5)


def _stablelm(writer: GGUFWriter, config: Config) -> None:
    writer.add_parallel_residual(bool(config.get("use_parallel_residual")))
    writer.add_rope_dimension_count(rotary_size(config, 0.25))


def _cohere2(writer: GGUFWriter, config: Config) -> None:
    windows(writer, config)
    writer.add_rope_dimension_count(head_size(config))
    without_scaling(writer, config)


def _glm4(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config))


def _nemotron(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config, 0.5))
    if rope_of(config)["rope_type"] == "default":
        without_scaling(writer, config)


def _minicpm3(writer: GGUFWriter, config: Config) -> None:
    """Latent attention that llama.cpp runs with keys and values of every head."""
    writer.add_key_length(config["qk_nope_head_dim"] + config["qk_rope_head_dim"])
    writer.add_rope_dimension_count(config["qk_rope_head_dim"])


_LLAMA = Entry(VOCAB, llama_keys, paired_rope=True, rope_factors=True, begins=granite_vocabulary)

DENSE: Mapping[str, Entry] = {
    "llama": _LLAMA,
    "arcee": _LLAMA,
    "smollm3": _LLAMA,
    "granite": replace(
        _LLAMA,
        table=(*VOCAB, *SCALES, *GRANITE_SHARED, *GRANITE_MIXERS),
        extra=granite_keys,
        replaced=granite_replaced,
    ),
    "gemma3": Entry((), _gemma3, one_plus=NORMS, fixed={"query_pre_attn_scalar": lambda config: _gemma3_scale(config)}),
    "gemma3n": Entry(
        (),
        _gemma3n,
        required=("blk.{}.attn_k.weight",),  # of layers that share others' keys, too
        padded={"per_layer_token_embd.weight": "vocab_size"},
        fixed={  # of which 20 have keys of their own, and 10 have gates that are cut off
            "num_kv_shared_layers": lambda config: max(0, config["num_hidden_layers"] - 20),
            "activation_sparsity_pattern": lambda config: ([0.95] * 10 + [0.0] * 99)[: config["num_hidden_layers"]],
        },
    ),
    "seed_oss": Entry(),
    "command-r": Entry((("add_logit_scale", ("logit_scale",)),), without_scaling),
    "mistral3": replace(_LLAMA, extra=_mistral3),
    "qwen2vl": Entry(),
    "starcoder2": Entry(),
    "olmo2": Entry((), windows),
    "exaone4": Entry(VOCAB, windows, rope_factors=True),
    "qwen3vl": Entry((), deepstack),
    "gemma": Entry((), one_plus=NORMS),
    "gemma2": Entry(
        (
            *WINDOW,
            ("add_attn_logit_softcapping", ("attn_logit_softcapping",)),
            ("add_final_logit_softcapping", ("final_logit_softcapping",)),
        ),
        one_plus=NORMS,
        fixed={"query_pre_attn_scalar": lambda config: _gemma2_scale(config)},
    ),
    "ernie4_5": Entry(),
    "glm4": Entry((), _glm4, apart_rope=True),
    "qwen2": Entry(),
    "cohere2": Entry((*VOCAB, ("add_logit_scale", ("logit_scale",))), _cohere2),
    "jais2": Entry((), llama_keys),
    "chatglm": Entry((), half_rotated, {"head_dim": None}, begins=lambda config: False),
    "paddleocr": Entry(),
    "nemotron": Entry((*VOCAB, ("add_layer_norm_eps", ("norm_eps",))), _nemotron, one_plus=NORMS),
    "olmo": Entry((("add_clamp_kqv", ("clip_qkv",)),), _olmo, paired_rope=True),
    "stablelm": Entry((), _stablelm),
    "qwen3": Entry(),
    "apertus": Entry(VOCAB, llama_keys, rope_factors=True, begins=granite_vocabulary),
    "minicpm3": Entry(
        (*VOCAB, ("add_q_lora_rank", ("q_lora_rank",)), ("add_kv_lora_rank", ("kv_lora_rank",))),
        _minicpm3,
        {"head_dim": None},
        long_rope=True,
        fixed={  # what llama.cpp scales embeddings, layers and logits by
            "scale_emb": lambda config: 12,
            "scale_depth": lambda config: 1.4,
            "dim_model_base": lambda config: 256,
        },
    ),
    **HRM,
    **HUNYUAN,
    **PHI,
}
"""By llama.cpp's architecture name."""
