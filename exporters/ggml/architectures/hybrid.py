"""Architectures with delta nets or convolutions in place of attention in most layers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import (
    DRAFTS,
    EXPERT_SIZES,
    GRANITE_MIXERS,
    GRANITE_SHARED,
    SCALES,
    SHARED_EXPERTS,
    VOCAB,
    Entry,
    Table,
    leading_dense,
)
from exporters.ggml.architectures.rotary import Config, head_size, rope_of, rotary_size
from sixfold.errors import SixfoldError

_DELTA_NET: Table = (
    ("add_ssm_conv_kernel", ("linear_conv_kernel_dim",)),
    ("add_ssm_state_size", ("linear_key_head_dim",)),
    ("add_ssm_group_count", ("linear_num_key_heads",)),
    ("add_ssm_time_step_rank", ("linear_num_value_heads",)),
)
_NORMS_OUTSIDE_DELTA_NETS = r"(?<!ssm_)norm\.weight$"
RECURRENT = ("linear_attention", "mamba")
"""Kinds of layers that keep a state instead of keys and values."""

_LFM2: Config = {"num_key_value_heads": None, "intermediate_size": None}
"""What `_lfm2` writes."""


def _heads_of_keys(writer: GGUFWriter, config: Config, attends: Iterable[bool]) -> None:
    """attends: of each layer, whether it is attention; what is in its place has no heads of keys."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    writer.add_head_count_kv([heads if attention else 0 for attention in attends])


def _lfm2_moe(writer: GGUFWriter, config: Config) -> None:
    _heads_of_keys(writer, config, (kind == "full_attention" for kind in config["layer_types"]))


def _lfm2(writer: GGUFWriter, config: Config) -> None:
    _lfm2_moe(writer, config)
    width = config["intermediate_size"]
    if config["block_auto_adjust_ff_dim"]:
        width = int(int(2 * width / 3) * (config["block_ffn_dim_multiplier"] or 1))
        width = -(-width // config["block_multiple_of"]) * config["block_multiple_of"]
    writer.add_feed_forward_length(width)


def _delta_net(writer: GGUFWriter, config: Config, share: float = 0.25) -> None:
    """share: of a head's channels that turn, where the config does not say."""
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    recurrent = [kind in RECURRENT for kind in config["layer_types"]]
    writer.add_full_attention_interval([*recurrent, False].index(False) + 1)
    writer.add_rope_dimension_count(rotary_size(config, share))
    recurrent += [False] * (config.get(DRAFTS) or 0)
    writer.add_array(f"{writer.arch}.attention.recurrent_layers", recurrent)


def axial_delta_net(writer: GGUFWriter, config: Config, share: float = 0.25) -> None:
    _delta_net(writer, config, share)
    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([11, 11, 10, 0])


def _mamba(writer: GGUFWriter, config: Config) -> None:
    """Mamba-2 mixers take any position, so that contexts are as long as anyone has memory for."""
    writer.add_context_length(2**20)


def _jamba(writer: GGUFWriter, config: Config) -> None:
    attends = [layer % config["attn_layer_period"] for layer in range(config["num_hidden_layers"])]
    _heads_of_keys(writer, config, (place == config["attn_layer_offset"] for place in attends))
    writer.add_ssm_inner_size(config["mamba_expand"] * config["hidden_size"])


def _kimi_linear(writer: GGUFWriter, config: Config) -> None:
    """Delta nets whose every channel decays by itself, and latent attention without positions."""
    writer.add_head_count_kv([int(kind not in RECURRENT) for kind in config["layer_types"]])
    rank, rope, nope = config["kv_lora_rank"], config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    writer.add_rope_dimension_count(rope)
    writer.add_key_length(rank + rope)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length(config["head_dim"])  # read by none, as the converter has it
    writer.add_leading_dense_block_count(leading_dense(config))


_ALPHAS = ("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor")
_BETAS = ("full_attn_beta_factor", "linear_attn_beta_factor", "mlp_beta_factor")
_LIGHTNING_INTERVAL = 8


def _minimax_01(writer: GGUFWriter, config: Config) -> None:
    """Lightning attention, and at every eighth layer attention."""
    scale, *others = (config[name] for name in _ALPHAS)
    if {scale} != {scale, *others} or {config[name] for name in _BETAS} != {1}:
        raise SixfoldError(
            "llama.cpp multiplies the residuals of a minimax by one factor and its layers by none, and this checkpoint"
            f" says {', '.join(f'{name}: {config[name]}' for name in (*_ALPHAS, *_BETAS))}",
            "leave the gguf recipes out for this model",
        )
    writer.add_residual_scale(scale)
    writer.add_rope_dimension_count(rotary_size(config))
    recurrent = [kind in RECURRENT for kind in config["layer_types"]]
    if recurrent != [bool((layer + 1) % _LIGHTNING_INTERVAL) for layer in range(len(recurrent))]:
        writer.add_array(f"{writer.arch}.attention.recurrent_layers", recurrent)


def _granite_hybrid(writer: GGUFWriter, config: Config) -> None:
    """Bamba has rotary positions and says which layers attend by their numbers, Granite 4 has neither."""
    turns, kinds = config["model_type"] == "bamba", config.get("layers_block_type") or config.get("layer_types")
    if turns:
        writer.add_rope_dimension_count(rotary_size(config))
        writer.add_context_length(config["max_position_embeddings"])
    else:
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
        _mamba(writer, config)
    attending = config.get("attn_layer_indices") or ()
    layers = enumerate(kinds or ["mamba"] * config["num_hidden_layers"])
    _heads_of_keys(writer, config, (layer in attending or kind not in RECURRENT for layer, kind in layers))
    writer.add_ssm_inner_size(config["mamba_n_heads"] * config["mamba_d_head"])
    writer.add_rope_scaling_finetuned(turns)  # llama.cpp reads it as "rotary positions"


def _nemotron_h(writer: GGUFWriter, config: Config) -> None:
    """Each layer is a mixer, attention, or one feed-forward: what it has none of is 0 in a list. MTP layers have
    attention and experts."""
    _mamba(writer, config)
    kinds, drafts = config["layers_block_type"], config.get(DRAFTS) or 0
    attends = [kind in ("attention", "full_attention") for kind in kinds]
    _heads_of_keys(writer, config, [*attends, *[True] * drafts])
    width = {"mlp": config["intermediate_size"], "moe": config["moe_intermediate_size"]}
    writer.add_feed_forward_length([width.get(kind, 0) for kind in (*kinds, *["moe"] * drafts)])
    writer.add_ssm_inner_size(config["mamba_num_heads"] * config["mamba_head_dim"])
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_scaling_finetuned(False)  # llama.cpp reads it as "no rotary positions"


_NEMOTRON_EXPERTS: Table = (
    ("add_expert_shared_feed_forward_length", ("moe_shared_expert_intermediate_size",)),
    ("add_moe_latent_size", ("moe_latent_size",)),
)
_WITHOUT_EXPERTS: Config = dict.fromkeys(("n_routed_experts", "num_experts_per_tok", "n_group", "topk_group"))
_NEMOTRON_LISTS: Config = {"num_key_value_heads": None, "intermediate_size": None, "max_position_embeddings": None}
"""What `_nemotron_h` writes."""

_NEMOTRON_H = Entry(
    (
        *VOCAB,
        ("add_layer_norm_eps", ("layer_norm_epsilon",)),
        ("add_ssm_conv_kernel", ("conv_kernel",)),
        ("add_ssm_state_size", ("ssm_state_size",)),
        ("add_ssm_group_count", ("n_groups",)),
        ("add_ssm_time_step_rank", ("mamba_num_heads",)),
    ),
    _nemotron_h,
    _NEMOTRON_LISTS,
    paired_rope=True,  # as the converter has it: there are no rotary positions, and any order gives the same scores
    mamba_groups=("n_groups",),
)

QWEN35MOE = Entry((*EXPERT_SIZES, *_DELTA_NET), axial_delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS, delta_net=True)

HYBRID: Mapping[str, Entry] = {
    "lfm2": Entry((*VOCAB, ("add_shortconv_l_cache", ("conv_L_cache",))), _lfm2, _LFM2),
    "lfm2moe": Entry(
        (
            *VOCAB,
            ("add_shortconv_l_cache", ("conv_L_cache",)),
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_leading_dense_block_count", ("num_dense_layers",)),
        ),
        _lfm2_moe,
        {"num_key_value_heads": None},
        gating={"lfm2_moe": "sigmoid"},
    ),
    "granitehybrid": Entry(
        (
            *VOCAB,
            *SCALES,
            *GRANITE_SHARED,
            *GRANITE_MIXERS,
        ),
        _granite_hybrid,
        {"head_dim": None, "num_key_value_heads": None, "max_position_embeddings": None},
        paired_rope=True,
        paired_part=True,
        mamba_groups=("mamba_n_groups",),
    ),
    "jamba": Entry(
        (
            ("add_ssm_conv_kernel", ("mamba_d_conv",)),
            ("add_ssm_state_size", ("mamba_d_state",)),
            ("add_ssm_time_step_rank", ("mamba_dt_rank",)),
        ),
        _jamba,
        {"num_key_value_heads": None},
    ),
    "kimi-linear": Entry(
        (
            *VOCAB,
            ("add_context_length", ("model_max_length",)),
            ("add_ssm_conv_kernel", ("linear_conv_kernel_dim",)),
            ("add_kda_head_dim", ("linear_head_dim",)),
            ("add_q_lora_rank", ("q_lora_rank",)),
            ("add_kv_lora_rank", ("kv_lora_rank",)),
            ("add_value_length_mla", ("v_head_dim",)),
            ("add_expert_used_count", ("num_experts_per_token",)),
            ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
            ("add_expert_shared_count", ("num_shared_experts",)),
            ("add_expert_weights_scale", ("routed_scaling_factor",)),
        ),
        _kimi_linear,
        {"num_key_value_heads": None, "head_dim": None},
        gating={"kimi_linear": "sigmoid"},
    ),
    "minimax-01": Entry((), _minimax_01),
    "nemotron_h": replace(_NEMOTRON_H, replaced={**_NEMOTRON_LISTS, **_WITHOUT_EXPERTS}),
    "nemotron_h_moe": replace(_NEMOTRON_H, table=(*_NEMOTRON_H.table, *SHARED_EXPERTS, *_NEMOTRON_EXPERTS)),
    "qwen3next": Entry((*EXPERT_SIZES, *_DELTA_NET), _delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS),
    "qwen35": Entry(_DELTA_NET, axial_delta_net, one_plus=_NORMS_OUTSIDE_DELTA_NETS, delta_net=True),
    "qwen35moe": QWEN35MOE,
}
"""By llama.cpp's architecture name."""
