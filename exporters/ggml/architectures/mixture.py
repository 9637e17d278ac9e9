"""Architectures with experts."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import (
    EXPERT_SIZES,
    SCALES,
    SHARED_EXPERTS,
    VOCAB,
    WINDOW,
    Entry,
    deepstack,
    granite_keys,
    half_rotated,
    llama_keys,
    windows,
    without_scaling,
)
from exporters.ggml.architectures.rotary import Config, rope_of, rotary_size


def _afmoe(writer: GGUFWriter, config: Config) -> None:
    llama_keys(writer, config)
    writer.add_expert_weights_norm(bool(config.get("route_norm", True)))


def _exaone_moe(writer: GGUFWriter, config: Config) -> None:
    windows(writer, config)
    without_scaling(writer, config)
    writer.add_nextn_predict_layers(0)  # transformers runs none, and none are written
    writer.add_expert_shared_feed_forward_length(config["moe_intermediate_size"] * config["num_shared_experts"])


def _ernie(writer: GGUFWriter, config: Config) -> None:
    """llama.cpp's converter takes the shared experts' width from fields that give the same in ERNIE's own sizes."""
    if config.get("moe_num_shared_experts"):
        width = config["moe_intermediate_size"] * config["moe_num_shared_experts"]
        writer.add_expert_shared_feed_forward_length(width)


def _llama4(writer: GGUFWriter, config: Config) -> None:
    llama_keys(writer, config)
    if all(kind == "full_attention" for kind in config.get("layer_types") or ["chunked_attention"]):
        writer.add_sliding_window(0)


def _minimax(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config))


def _latent_attention(writer: GGUFWriter, config: Config) -> None:
    """Multi-head latent attention is held as attention with one key and value head of the latent's width."""
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rope)
    kinds = config.get("mlp_layer_types")
    if kinds and config.get("first_k_dense_replace") is None:
        writer.add_leading_dense_block_count([*kinds, "sparse"].index("sparse"))
    mscale = rope_of(config).get("mscale_all_dim")
    if mscale is not None:
        writer.add_rope_scaling_yarn_log_mul(0.1 * mscale)


MIXTURE: Mapping[str, Entry] = {
    "granitemoe": Entry((*VOCAB, *SCALES), granite_keys, {"head_dim": None}, paired_rope=True, rope_factors=True),
    "llama4": Entry(
        (
            *VOCAB,
            ("add_interleave_moe_layer_step", ("interleave_moe_layer_step",)),
            ("add_expert_feed_forward_length", ("intermediate_size",)),
        ),
        _llama4,
        rope_factors=True,
    ),
    "gpt-oss": Entry((*WINDOW, ("add_expert_feed_forward_length", ("intermediate_size",)))),
    "afmoe": Entry(
        (
            *VOCAB,
            *WINDOW,
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_shared_count", ("num_shared_experts",)),
            ("add_expert_weights_scale", ("route_scale",)),
            ("add_leading_dense_block_count", ("num_dense_layers",)),
        ),
        _afmoe,
        fixed={"mup_enabled": lambda config: True},
    ),
    "exaone-moe": Entry(
        (*VOCAB, *SHARED_EXPERTS, ("add_expert_shared_count", ("num_shared_experts",))),
        _exaone_moe,
        gating={"exaone_moe": "sigmoid"},
    ),
    "dots1": Entry(SHARED_EXPERTS),
    "qwen3vlmoe": Entry(EXPERT_SIZES, deepstack, renormalized=True),
    "ernie4_5-moe": Entry(
        (
            ("add_expert_count", ("moe_num_experts",)),
            ("add_expert_used_count", ("moe_k",)),
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_shared_count", ("moe_num_shared_experts",)),
            ("add_interleave_moe_layer_step", ("moe_layer_interval",)),
            ("add_leading_dense_block_count", ("moe_layer_start_index",)),
        ),
        _ernie,
    ),
    "qwen2moe": Entry(EXPERT_SIZES, renormalized=False),
    "qwen3moe": Entry(EXPERT_SIZES, renormalized=True),
    "olmoe": Entry(renormalized=False),
    "minimax-m2": Entry(
        (("add_expert_feed_forward_length", ("intermediate_size",)),), _minimax, gating={"minimax_m2": "sigmoid"}
    ),
    "glm4moe": Entry(SHARED_EXPERTS, half_rotated, gating={"glm4_moe": "sigmoid"}),
    "deepseek2": Entry(
        (
            *SHARED_EXPERTS,
            ("add_vocab_size", ("vocab_size",)),
            ("add_q_lora_rank", ("q_lora_rank",)),
            ("add_kv_lora_rank", ("kv_lora_rank",)),
        ),
        _latent_attention,
        replaced={"num_key_value_heads": 1, "head_dim": None},
        gating={"deepseek_v3": "sigmoid", "glm4_moe_lite": "sigmoid"},
    ),
}
"""By llama.cpp's architecture name."""
