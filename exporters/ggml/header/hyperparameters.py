"""The model's numbers as llama.cpp reads them: `<architecture>.*` keys of a GGUF file, a short entry per architecture.

An entry is a table of gguf-py's writer methods with the config keys that they take their value from. What needs more
than one value is a small function. Keys are those that llama.cpp's converter writes for the same model.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from gguf import ExpertGatingFuncType, GGUFWriter, RopeScalingType

from sixfold.errors import SixfoldError

Config = Mapping[str, Any]
_Table = tuple[tuple[str, tuple[str, ...]], ...]

_EVERY: _Table = (
    ("add_block_count", ("num_hidden_layers",)),
    ("add_context_length", ("max_position_embeddings",)),
    ("add_embedding_length", ("hidden_size",)),
    ("add_feed_forward_length", ("intermediate_size_mlp", "intermediate_size")),
    ("add_head_count", ("num_attention_heads",)),
    ("add_head_count_kv", ("num_key_value_heads",)),
    ("add_layer_norm_rms_eps", ("rms_norm_eps", "norm_eps")),
    ("add_layer_norm_eps", ("layer_norm_eps", "norm_epsilon")),
    ("add_expert_count", ("num_local_experts", "num_experts", "n_routed_experts")),
    ("add_expert_used_count", ("num_experts_per_tok",)),
    ("add_expert_group_count", ("n_group",)),
    ("add_expert_group_used_count", ("topk_group",)),
    ("add_key_length", ("head_dim",)),
    ("add_value_length", ("head_dim",)),
)
_EXPERT_SIZES: _Table = (
    ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
    ("add_expert_shared_feed_forward_length", ("shared_expert_intermediate_size",)),
)
_SHARED_EXPERTS: _Table = (
    ("add_expert_feed_forward_length", ("moe_intermediate_size",)),
    ("add_expert_shared_count", ("n_shared_experts",)),
    ("add_leading_dense_block_count", ("first_k_dense_replace",)),
    ("add_expert_weights_scale", ("routed_scaling_factor",)),
    ("add_expert_weights_norm", ("norm_topk_prob",)),
)
_VOCAB: _Table = (("add_vocab_size", ("vocab_size",)),)
_WINDOW: _Table = (("add_sliding_window", ("sliding_window",)),)
_SCALES: _Table = (
    ("add_attention_scale", ("attention_multiplier",)),
    ("add_embedding_scale", ("embedding_multiplier",)),
    ("add_residual_scale", ("residual_multiplier",)),
    ("add_logit_scale", ("logits_scaling",)),
)
_DELTA_NET: _Table = (
    ("add_ssm_conv_kernel", ("linear_conv_kernel_dim",)),
    ("add_ssm_state_size", ("linear_key_head_dim",)),
    ("add_ssm_group_count", ("linear_num_key_heads",)),
    ("add_ssm_time_step_rank", ("linear_num_value_heads",)),
)
_GATING = {"sigmoid": ExpertGatingFuncType.SIGMOID, "softmax": ExpertGatingFuncType.SOFTMAX}


def _nothing(writer: GGUFWriter, config: Config) -> None:
    pass


def _llama(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(_head_size(config))


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
    writer.add_rope_dimension_count(_rotary_size(config))
    before = config.get("original_max_position_embeddings") or config["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(before)


def _gemma2_scale(config: Config) -> int:
    """46 layers are the 27B, whose queries are scaled by another size than a head's."""
    heads = int(config["hidden_size"] // config["num_attention_heads"])
    return heads if config["num_hidden_layers"] == 46 else _head_size(config)


def _gemma3_scale(config: Config) -> int:
    """62 layers are the 27B, whose queries are scaled by another size than a head's."""
    heads = int(config["hidden_size"] // config["num_attention_heads"])
    return heads if config["num_hidden_layers"] == 62 else _head_size(config)


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
    writer.add_rope_dimension_count(_rotary_size(config, 0.25))

    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([11, 11, 10, 0])


def _deepstack(writer: GGUFWriter, config: Config) -> None:
    if not rope_of(config).get("mrope_section"):
        writer.add_rope_dimension_sections([24, 20, 20, 0])
    writer.add_num_deepstack_layers(len((config.get("vision_config") or {}).get("deepstack_visual_indexes") or ()))


def _minimax(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(_rotary_size(config))


def _glm4(writer: GGUFWriter, config: Config) -> None:
    writer.add_rope_dimension_count(_rotary_size(config, 0.5))


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

    table: _Table = ()
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


def write_hyperparameters(writer: GGUFWriter, arch: str, config: Config) -> None:
    """Add all `<arch>.*` keys. config: as from `sixfold.model.meta_model.completed`.

    Raises SixfoldError where llama.cpp has no key for something.
    """
    entry = ENTRIES[arch]
    own, config = config, as_stated(arch, config)
    for method, keys in (*_EVERY, *entry.table):
        value = next((config[key] for key in keys if config.get(key) is not None), None)
        if value is not None:
            getattr(writer, method)(value)
    scoring = config.get("scoring_func") or (entry.gating or {}).get(config["model_type"])
    if scoring is not None:
        if scoring not in _GATING:
            raise SixfoldError(f"GGUF has no expert gating function {scoring!r}", "leave the gguf recipes out")
        writer.add_expert_gating_func(_GATING[scoring])
    _write_rope(writer, rope_of(config))
    windowed = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    if windowed.get("rope_theta") is not None:
        writer.add_rope_freq_base_swa(windowed["rope_theta"])
    sections = rope_of(config).get("mrope_section")
    if sections:
        writer.add_rope_dimension_sections([*sections, 0, 0, 0, 0][:4])
    entry.extra(writer, own)


def as_stated(arch: str, config: Config) -> Config:
    """The config with the values that the file of this architecture states otherwise."""
    return {**config, **(ENTRIES[arch].replaced or {})}


def differences(arch: str, config: Config) -> Iterable[str]:
    """Where llama.cpp will compute something else than transformers, a sentence each."""
    renormalized = ENTRIES[arch].renormalized
    for name, given in ENTRIES[arch].fixed.items():
        if config.get(name) is not None and config[name] != given(config):
            yield (
                f"llama.cpp computes {arch} with {name} = {given(config)}, this checkpoint says {config[name]}:"
                " answers will differ from the source's"
            )
    asked = config.get("norm_topk_prob")
    if renormalized is not None and asked is not None and bool(asked) != renormalized:
        does = "always" if renormalized else "never"
        yield (
            f"llama.cpp {does} renormalizes the weights of chosen experts in {arch}, this checkpoint asks for the"
            f" opposite (norm_topk_prob: {str(asked).lower()}): answers will differ from the source's"
        )


def rope_of(config: Config) -> Mapping[str, Any]:
    """Rotary parameters of full attention: rope_theta, rope_type and what belongs to the type."""
    rope: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    missing = {k: config[k] for k in ("rope_theta", "partial_rotary_factor") if config.get(k) is not None}
    return {**missing, **rope, "rope_type": rope.get("rope_type", rope.get("type", "default"))}


def _write_rope(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    kind = rope["rope_type"]
    if rope.get("rope_theta") is not None:
        writer.add_rope_freq_base(rope["rope_theta"])
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for key, method in (
            ("extrapolation_factor", writer.add_rope_scaling_yarn_ext_factor),
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.get(key) is not None:
                method(rope[key])
    elif kind not in ("default", "llama3"):
        raise SixfoldError(f"rotary scaling {kind!r} cannot be written into a GGUF file", "leave the gguf recipes out")


def rope_frequency_factors(config: Config) -> torch.Tensor | None:
    """Llama 3's scaling, which llama.cpp takes as a tensor: what each frequency is divided by, float32 [head size / 2].

    Long wavelengths are divided by `factor`, short ones are left alone, those between are interpolated. None where the
    rotary type is another. Formula: "llama3" in transformers' modeling_rope_utils.
    """
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    size, base, factor = _head_size(config), rope.get("rope_theta", 10000.0), rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    frequency = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    wavelength = 2 * math.pi / frequency
    smooth = (context / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(wavelength > context / low, torch.full_like(between, float(factor)), between)
    return torch.where(wavelength < context / high, torch.ones_like(between), factors)


def _head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rotary_size(config: Config, default: float = 1.0) -> int:
    """How many of a head's dimensions are rotated."""
    if config.get("rotary_dim"):
        return int(config["rotary_dim"])
    return int(_head_size(config) * rope_of(config).get("partial_rotary_factor", default))
