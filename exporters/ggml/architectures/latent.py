"""Architectures of multi-head latent attention that llama.cpp runs with the latent as its one head of keys."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import INDEXER, SHARED_EXPERTS, Entry, Table, leading_dense
from exporters.ggml.architectures.rotary import Config, rope_of


def _latent_attention(writer: GGUFWriter, config: Config) -> None:
    """Multi-head latent attention is held as attention with one key and value head of the latent's width."""
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rope)
    experts = config.get("n_routed_experts")
    if not experts:  # Youtu: latent attention alone, and llama.cpp asks for these
        writer.add_leading_dense_block_count(config["num_hidden_layers"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_expert_shared_count(0)
    elif config.get("mlp_layer_types") and config.get("first_k_dense_replace") is None:
        writer.add_leading_dense_block_count(leading_dense(config))
    mscale = rope_of(config).get("mscale_all_dim")
    if mscale is not None:
        writer.add_rope_scaling_yarn_log_mul(0.1 * mscale)


def _sparse_latent_attention(writer: GGUFWriter, config: Config) -> None:
    _latent_attention(writer, config)
    kinds = config.get("indexer_types")
    if kinds:
        writer.add_array(f"{writer.arch}.attention.indexer.types", [kind == "full" for kind in kinds])


def _hy_v4(writer: GGUFWriter, config: Config) -> None:
    """Beside it streams of hidden states, sinks, a gate of what attention gives, and gates of experts that are
    clamped."""
    if any(kind.endswith("sparse_attention") for kind in config["layer_types"]):
        writer.add_indexer_head_count(config["index_n_heads"])
        writer.add_indexer_key_length(config["index_head_dim"])
        writer.add_indexer_top_k(config["index_topk"])
        _sparse_latent_attention(writer, config)
    else:
        _latent_attention(writer, config)
    writer.add_uint32(f"{writer.arch}.hyper_connection.count", config["hc_mult"])
    writer.add_float32(f"{writer.arch}.hyper_connection.epsilon", config["hc_eps"])
    writer.add_float32(f"{writer.arch}.hyper_connection.magnitude", config["hc_magnitude"])
    if config.get("swiglu_limit"):
        writer.add_swiglu_clamp_exp([config["swiglu_limit"]] * config["num_hidden_layers"])


def _in_one_group(config: Config) -> Config:
    """Of experts, too, where their groups are one."""
    grouped = (config.get("n_group") or 1) > 1
    return _ONE_GROUP if grouped else {**_ONE_GROUP, "n_group": None, "topk_group": None}


_LATENT: Table = (
    *SHARED_EXPERTS,
    ("add_vocab_size", ("vocab_size",)),
    ("add_q_lora_rank", ("q_lora_rank",)),
    ("add_kv_lora_rank", ("kv_lora_rank",)),
)
_ONE_GROUP: Config = {"num_key_value_heads": 1, "head_dim": None}
"""Of latent attention, see `_latent_attention`."""

LATENT: Mapping[str, Entry] = {
    "deepseek2": Entry(
        _LATENT, _latent_attention, _ONE_GROUP, gating={"deepseek_v3": "sigmoid", "glm4_moe_lite": "sigmoid"}
    ),
    "deepseek32": Entry((*_LATENT, *INDEXER), _sparse_latent_attention, _ONE_GROUP, gating={"deepseek_v32": "sigmoid"}),
    "glm-dsa": Entry((*_LATENT, *INDEXER), _sparse_latent_attention, _ONE_GROUP, gating={"glm_moe_dsa": "sigmoid"}),
    "mistral4": Entry(_LATENT, _latent_attention, _ONE_GROUP),
    "hy_v4": Entry(
        _LATENT,
        _hy_v4,
        _in_one_group,
        gating={"hy_v4": "sigmoid"},
        disputed="llama.cpp turns neighboring channels of hy_v4's queries and keys by their positions, and transformers"
        " those that are half of them apart: the file is as llama.cpp's converter has it, and its answers differ",
    ),
}
"""By llama.cpp's architecture name."""
