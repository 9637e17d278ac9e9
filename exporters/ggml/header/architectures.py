"""What llama.cpp's architectures have beyond the keys of every decoder, a short entry each.

An entry is a table of gguf-py's writer methods with the config keys that they take their value from. What needs more
than one value is a small function. Keys are those that llama.cpp's converter writes for the same model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import GGUFWriter, RopeScalingType

from exporters.ggml.header.rope import Config, head_size, rope_of, rotary_size

Table = tuple[tuple[str, tuple[str, ...]], ...]
"""Methods of gguf-py's writer, each with the config keys of which the first that is there has its value."""

_EXPERT_SIZES: Table = (
    ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
    ("add_expert_shared_feed_forward_length", ("shared_expert_intermediate_size",)),
)
_SHARED_EXPERTS: Table = (
    ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
    ("add_expert_shared_count", ("n_shared_experts",)),
    ("add_leading_dense_block_count", ("first_k_dense_replace",)),
    ("add_expert_weights_scale", ("routed_scaling_factor",)),
    ("add_expert_weights_norm", ("norm_topk_prob",)),
)
_VOCAB: Table = (("add_vocab_size", ("vocab_size",)),)
_WINDOW: Table = (("add_sliding_window", ("sliding_window",)),)
_SCALES: Table = (
    ("add_attention_scale", ("attention_multiplier",)),
    ("add_embedding_scale", ("embedding_multiplier",)),
    ("add_residual_scale", ("residual_multiplier",)),
    ("add_logit_scale", ("logits_scaling",)),
)
_DELTA_NET: Table = (
    ("add_ssm_conv_kernel", ("linear_conv_kernel_dim",)),
    ("add_ssm_state_size", ("linear_key_head_dim",)),
    ("add_ssm_group_count", ("linear_num_key_heads",)),
    ("add_ssm_time_step_rank", ("linear_num_value_heads",)),
)


def _nothing(writer: GGUFWriter, config: Config) -> None:
    pass


def _llama(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(head_size(config))


def _windows(writer: GGUFWriter, config: Config) -> None:
    """Windows in some layers alone. Nothing where no layer has one."""
    if config.get("sliding_window") is not None and config.get("layer_types"):
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])


def _gemma3(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config["sliding_window"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _without_scaling(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_scaling_type(RopeScalingType.NONE)


def _afmoe(writer: GGUFWriter, config: Config) -> None:
    _llama(writer, config)
    writer.add_expert_weights_norm(bool(config.get("route_norm", True)))


def _exaone_moe(writer: GGUFWriter, config: Config) -> None:
    _windows(writer, config)
    _without_scaling(writer, config)
    writer.add_nextn_predict_layers(0)  # transformers runs none, and none are written
    writer.add_expert_shared_feed_forward_length(config["moe_intermediate_size"] * config["num_shared_experts"])


def _lfm2(writer: GGUFWriter, config: Config) -> None:
    """A convolution has no heads of keys."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config["layer_types"]])
    width = config["intermediate_size"]
    if config["block_auto_adjust_ff_dim"]:
        width = int(int(2 * width / 3) * (config["block_ffn_dim_multiplier"] or 1))
        width = -(-width // config["block_multiple_of"]) * config["block_multiple_of"]
    writer.add_feed_forward_length(width)


def _mistral3(writer: GGUFWriter, config: Config) -> None:
    _llama(writer, config)
    rope = rope_of(config)
    if rope.get("llama_4_scaling_beta") is not None:
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim") is not None:
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])


def _ernie(writer: GGUFWriter, config: Config) -> None:
    """llama.cpp's converter takes the shared experts' width from fields that give the same in ERNIE's own sizes."""
    if config.get("moe_num_shared_experts"):
        width = config["moe_intermediate_size"] * config["moe_num_shared_experts"]
        writer.add_expert_shared_feed_forward_length(width)


def _phi3(writer: GGUFWriter, config: Config) -> None:
    writer.add_sliding_window(config.get("sliding_window") or 0)
    writer.add_rope_dimension_count(rotary_size(config))
    before = config.get("original_max_position_embeddings") or config["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(before)


def _gemma2_scale(config: Config) -> int:
    """46 layers are the 27B, whose queries are scaled by another size than a head's."""
    heads = int(config["hidden_size"] // config["num_attention_heads"])
    return heads if config["num_hidden_layers"] == 46 else head_size(config)


def _gemma3_scale(config: Config) -> int:
    """62 layers are the 27B, whose queries are scaled by another size than a head's."""
    heads = int(config["hidden_size"] // config["num_attention_heads"])
    return heads if config["num_hidden_layers"] == 62 else head_size(config)


def _granite(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])


def _llama4(writer: GGUFWriter, config: Config) -> None:
    _llama(writer, config)
    if all(kind == "full_attention" for kind in config.get("layer_types") or ["chunked_attention"]):
        writer.add_sliding_window(0)


def _delta_net(writer: GGUFWriter, config: Config) -> None:
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    kinds = [*config["layer_types"], "full_attention"]
    writer.add_full_attention_interval(kinds.index("full_attention") + 1)
    writer.add_rope_dimension_count(rotary_size(config, 0.25))

    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([11, 11, 10, 0])


def _deepstack(writer: GGUFWriter, config: Config) -> None:
    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([24, 20, 20, 0])
    writer.add_num_deepstack_layers(len((config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()))


def _minimax(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config))


def _glm4(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(rotary_size(config, 0.5))


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


@dataclass(frozen=True)
class Entry:
    """An architecture beyond what all have in common.

    table, extra: further keys. replaced: config values that the file states otherwise.
    gating: what a config without `scoring_func` means, by transformers' model_type.
    renormalized: whether llama.cpp divides the chosen experts' weights by their sum whatever the file says (None: it
    asks the file, or does as transformers does).
    paired_rope: q and k rows are interleaved, as in the LLaMA of 2023.
    rope_factors: whether Llama 3's scaling of rotary frequencies is held as a tensor.
    fixed: config fields whose value llama.cpp takes for given -> that value.
    one_plus: norms (an expression on GGUF names) that the file holds with the one that the model adds to them.
    delta_net: the file holds a delta net's values head by head of the keys' (see exporters.ggml.tensors).
    """

    table: Table = ()
    extra: Callable[[GGUFWriter, Config], None] = _nothing
    replaced: Config | None = None
    gating: Mapping[str, str] | None = None
    renormalized: bool | None = None
    paired_rope: bool = False
    rope_factors: bool = False
    fixed: Mapping[str, Callable[[Config], Any]] = field(default_factory=dict)
    one_plus: str = ""
    delta_net: bool = False


_NORMS = r"norm\.weight$"
_NORMS_OUTSIDE_DELTA_NETS = r"(?<!ssm_)norm\.weight$"

_LFM2: Config = {"num_key_value_heads": None, "intermediate_size": None}
"""What `_lfm2` writes."""

ENTRIES: Mapping[str, Entry] = {
    "llama": Entry(_VOCAB, _llama, paired_rope=True, rope_factors=True),
    "arcee": Entry(_VOCAB, _llama, paired_rope=True, rope_factors=True),
    "smollm3": Entry(_VOCAB, _llama, paired_rope=True, rope_factors=True),
    "granite": Entry((*_VOCAB, *_SCALES), _granite, {"head_dim": None}, paired_rope=True, rope_factors=True),
    "granitemoe": Entry((*_VOCAB, *_SCALES), _granite, {"head_dim": None}, paired_rope=True, rope_factors=True),
    "llama4": Entry(
        (
            *_VOCAB,
            ("add_interleave_moe_layer_step", ("interleave_moe_layer_step",)),
            ("add_expert_feed_forward_length", ("intermediate_size",)),
        ),
        _llama4,
        rope_factors=True,
    ),
    "gemma3": Entry(
        (), _gemma3, one_plus=_NORMS, fixed={"query_pre_attn_scalar": lambda config: _gemma3_scale(config)}
    ),
    "gpt-oss": Entry((*_WINDOW, ("add_expert_feed_forward_length", ("intermediate_size",)))),
    "seed_oss": Entry(),
    "afmoe": Entry(
        (
            *_VOCAB,
            *_WINDOW,
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_shared_count", ("num_shared_experts",)),
            ("add_expert_weights_scale", ("route_scale",)),
            ("add_leading_dense_block_count", ("num_dense_layers",)),
        ),
        _afmoe,
        fixed={"mup_enabled": lambda config: True},
    ),
    "command-r": Entry((("add_logit_scale", ("logit_scale",)),), _without_scaling),
    "exaone-moe": Entry(
        (*_VOCAB, *_SHARED_EXPERTS, ("add_expert_shared_count", ("num_shared_experts",))),
        _exaone_moe,
        gating={"exaone_moe": "sigmoid"},
    ),
    "lfm2": Entry((*_VOCAB, ("add_shortconv_l_cache", ("conv_L_cache",))), _lfm2, _LFM2),
    "mistral3": Entry(_VOCAB, _mistral3, paired_rope=True, rope_factors=True),
    "qwen2vl": Entry(),
    "starcoder2": Entry(),
    "hunyuan-dense": Entry(),
    "olmo2": Entry((), _windows),
    "exaone4": Entry(_VOCAB, _windows, rope_factors=True),
    "dots1": Entry(_SHARED_EXPERTS),
    "qwen3vl": Entry((), _deepstack),
    "qwen3vlmoe": Entry(_EXPERT_SIZES, _deepstack, renormalized=True),
    "gemma": Entry((), one_plus=_NORMS),
    "gemma2": Entry(
        (
            *_WINDOW,
            ("add_attn_logit_softcapping", ("attn_logit_softcapping",)),
            ("add_final_logit_softcapping", ("final_logit_softcapping",)),
        ),
        one_plus=_NORMS,
        fixed={"query_pre_attn_scalar": lambda config: _gemma2_scale(config)},
    ),
    "ernie4_5": Entry(),
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
    "glm4": Entry((), _glm4),
    "phi3": Entry((), _phi3),
    "qwen35": Entry(_DELTA_NET, _delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS, delta_net=True),
    "qwen35moe": Entry((*_EXPERT_SIZES, *_DELTA_NET), _delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS, delta_net=True),
    "qwen2": Entry(),
    "qwen3": Entry(),
    "qwen2moe": Entry(_EXPERT_SIZES, renormalized=False),
    "qwen3moe": Entry(_EXPERT_SIZES, renormalized=True),
    "olmoe": Entry(renormalized=False),
    "minimax-m2": Entry(
        (("add_expert_feed_forward_length", ("intermediate_size",)),), _minimax, gating={"minimax_m2": "sigmoid"}
    ),
    "glm4moe": Entry(_SHARED_EXPERTS, _glm4, gating={"glm4_moe": "sigmoid"}),
    "deepseek2": Entry(
        (
            *_SHARED_EXPERTS,
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
