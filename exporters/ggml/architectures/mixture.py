"""Architectures with experts."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import (
    DRAFTS,
    EXPERT_SIZES,
    GRANITE_MIXERS,
    GRANITE_SHARED,
    NORMS,
    SCALES,
    SHARED_EXPERTS,
    VOCAB,
    WINDOW,
    Entry,
    deepstack,
    granite_keys,
    granite_replaced,
    granite_vocabulary,
    half_rotated,
    leading_dense,
    llama_keys,
    windows,
    without_scaling,
)
from exporters.ggml.architectures.gemma4 import GEMMA_4
from exporters.ggml.architectures.hunyuan import stretched, stretched_keys
from exporters.ggml.architectures.latent import LATENT
from exporters.ggml.architectures.rotary import Config, head_size, rotary_size


def _afmoe(writer: GGUFWriter, config: Config) -> None:
    llama_keys(writer, config)
    writer.add_expert_weights_norm(bool(config.get("route_norm", True)))


def _exaone_moe(writer: GGUFWriter, config: Config) -> None:
    windows(writer, config)
    without_scaling(writer, config)
    if not config.get(DRAFTS):
        writer.add_nextn_predict_layers(0)  # it is written of every file
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


def _minimax_m3(writer: GGUFWriter, config: Config) -> None:
    """Blocks of keys are chosen by an indexer, which gguf-py 0.19 has not all keys for."""
    _minimax(writer, config)
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_expert_shared_count(config["shared_intermediate_size"] // config["intermediate_size"])
    writer.add_expert_weights_norm(True)
    writer.add_leading_dense_block_count(leading_dense(config))
    writer.add_uint32(f"{writer.arch}.attention.indexer.block_size", config["index_block_size"])
    writer.add_uint32(f"{writer.arch}.attention.indexer.local_blocks", config["index_local_blocks"])


def _mimo2(writer: GGUFWriter, config: Config) -> None:
    """Layers with windows have twice the heads of keys, and attention sinks."""
    windows(writer, config)
    heads = config["num_key_value_heads"]
    writer.add_head_count_kv([heads * (1 + (kind == "sliding_attention")) for kind in config["layer_types"]])
    writer.add_rope_dimension_count(rotary_size(config))
    writer.add_key_length(head_size(config))
    if config.get("attention_value_scale") is not None:  # gguf-py 0.19 does not have it
        writer.add_float32(f"{writer.arch}.attention.value_scale", config["attention_value_scale"])


def _step35(writer: GGUFWriter, config: Config) -> None:
    """Layers with windows have other heads, turn whole heads where full attention turns half, and clamp experts."""
    kinds = _step35_kinds(config)
    if config.get("sliding_window") is not None:
        writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])
    writer.add_expert_weights_norm(True)
    writer.add_leading_dense_block_count(leading_dense(config))
    writer.add_moe_every_n_layers(1)
    for name, write in (
        ("swiglu_limits", writer.add_swiglu_clamp_exp),
        ("swiglu_limits_shared", writer.add_swiglu_clamp_shexp),
    ):
        if config.get(name) is not None:
            limits = [float(limit or 0.0) for limit in config[name]]
            write([*limits, *[0.0] * len(kinds)][: len(kinds)])


def _step35_kinds(config: Config) -> list[str]:
    """Of all layers, those of multi-token prediction among them."""
    drafts = config.get(DRAFTS) or 0
    return [*config["layer_types"], *(config.get("mtp_layer_types") or ["full_attention"] * drafts)[:drafts]]


def _step35_heads(config: Config) -> Config:
    heads = {"sliding_attention": config["num_sliding_attention_heads"]}
    kinds = _step35_kinds(config)
    return {
        "num_attention_heads": [heads.get(kind, config["num_attention_heads"]) for kind in kinds],
        "num_key_value_heads": [config["num_key_value_heads"]] * len(kinds),
    }


def _cohere2_moe(writer: GGUFWriter, config: Config) -> None:
    windows(writer, config)
    without_scaling(writer, config)
    llama_keys(writer, config)
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_leading_dense_block_count(leading_dense(config))
    if config.get("prefix_dense_intermediate_size"):
        writer.add_feed_forward_length(config["prefix_dense_intermediate_size"])
    shared = config.get("num_shared_experts") or 0
    if shared:
        writer.add_expert_shared_count(shared)
        writer.add_expert_shared_feed_forward_length(config["intermediate_size"] * shared)


def _granite_swa(writer: GGUFWriter, config: Config) -> None:
    granite_keys(writer, config)
    windows(writer, config)
    if config.get("no_rope_layers"):
        writer.add_array(f"{writer.arch}.attention.rope_pattern", [bool(kind) for kind in config["no_rope_layers"]])


def _hy_v3(writer: GGUFWriter, config: Config) -> None:
    width = config["moe_intermediate_size"] * (config.get("num_shared_experts") or 1)
    writer.add_expert_shared_feed_forward_length(width)
    writer.add_expert_weights_norm(bool(config.get("route_norm", True)))


def _laguna(writer: GGUFWriter, config: Config) -> None:
    """Heads may differ from layer to layer, and positions between windows and full attention."""
    heads = config.get("num_attention_heads_per_layer") or [config["num_attention_heads"]] * config["num_hidden_layers"]
    writer.add_head_count(list(heads))
    writer.add_expert_weights_norm(bool(config.get("norm_topk_prob", True)))
    writer.add_leading_dense_block_count(leading_dense(config))
    writer.add_rope_dimension_count(rotary_size(config))
    windowed = (config.get("rope_parameters") or {}).get("sliding_attention")
    if windowed:
        writer.add_rope_dimension_count_swa(int(head_size(config) * windowed.get("partial_rotary_factor", 1.0)))


def _hunyuan_moe(writer: GGUFWriter, config: Config) -> None:
    stretched_keys(writer, config)
    writer.add_expert_feed_forward_length(_first(config.get("moe_intermediate_size") or config["intermediate_size"]))
    writer.add_expert_used_count(_first(config["moe_topk"]))
    writer.add_expert_shared_count(_first(config.get("num_shared_expert") or 1))


def _first(value: int | list[int]) -> int:
    """Of a number that a config may state for each layer."""
    return value[0] if isinstance(value, list) else value


MIXTURE: Mapping[str, Entry] = {
    "gemma4": GEMMA_4,
    "granitemoe": Entry(
        (*VOCAB, *SCALES, *GRANITE_SHARED, *GRANITE_MIXERS),
        granite_keys,
        granite_replaced,
        paired_rope=True,
        rope_factors=True,
        begins=granite_vocabulary,
    ),
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
        begins=granite_vocabulary,
        fixed={"mup_enabled": lambda config: True},
    ),
    "exaone-moe": Entry(
        (*VOCAB, *SHARED_EXPERTS, ("add_expert_shared_count", ("num_shared_experts",))),
        _exaone_moe,
        gating={"exaone_moe": "sigmoid"},
    ),
    "dots1": Entry(SHARED_EXPERTS, gating={"dots1": "sigmoid"}),
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
    "mimo2": Entry(
        (
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_value_length", ("v_head_dim",)),
        ),
        _mimo2,
        {"num_key_value_heads": None, "head_dim": None},
        gating={"mimo_v2_flash": "sigmoid"},
    ),
    "minimax-m3": Entry(
        (
            ("add_expert_weights_scale", ("routed_scaling_factor",)),
            ("add_indexer_head_count", ("index_n_heads",)),
            ("add_indexer_key_length", ("index_head_dim",)),
            ("add_indexer_top_k", ("index_topk_blocks",)),
        ),
        _minimax_m3,
        lambda config: {"intermediate_size": config["dense_intermediate_size"]},
        gating={"minimax_m3_vl": "sigmoid"},
        one_plus=NORMS,
    ),
    "step35": Entry(
        (
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_shared_feed_forward_length", ("share_expert_dim",)),
            ("add_expert_weights_scale", ("moe_router_scaling_factor",)),
        ),
        _step35,
        _step35_heads,
        gating={"step3p5": "sigmoid"},
        rope_factors=True,
        one_plus=NORMS,
    ),
    "glm4moe": Entry(
        SHARED_EXPERTS, half_rotated, gating=dict.fromkeys(("glm4_moe", "glm4v_moe", "solar_open"), "sigmoid")
    ),
    "cohere2moe": Entry(
        (
            *VOCAB,
            ("add_logit_scale", ("logit_scale",)),
            ("add_expert_weights_norm", ("norm_topk_prob",)),
        ),
        _cohere2_moe,
        {"intermediate_size": None},
    ),
    "granite_swa": Entry(
        (*VOCAB, *SCALES, *GRANITE_SHARED),
        _granite_swa,
        {"head_dim": None},
        paired_rope=True,
        begins=granite_vocabulary,
    ),
    "hunyuan-moe": Entry(
        (("add_expert_shared_feed_forward_length", ("intermediate_size",)),),
        _hunyuan_moe,
        lambda config: {"num_experts_per_tok": None, **stretched(config)},
    ),
    "hy_v3": Entry(
        (
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_weights_scale", ("router_scaling_factor",)),
        ),
        _hy_v3,
        gating={"hy_v3": "sigmoid"},
    ),
    "laguna": Entry(
        (
            *VOCAB,
            *WINDOW,
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_shared_feed_forward_length", ("shared_expert_intermediate_size",)),
            ("add_expert_weights_scale", ("moe_routed_scaling_factor",)),
        ),
        _laguna,
        {"num_attention_heads": None},
        gating={"laguna": "sigmoid"},
    ),
    "mellum": Entry(EXPERT_SIZES, windows, renormalized=True),
    **LATENT,
}
"""By llama.cpp's architecture name."""
