"""What the keys of a GGUF file must say of a model, derived from its config.json alone.

By the rules of llama.cpp's converter (conversion/*.py) for what a file states, and of its loader (src/llama-model.cpp
and src/models/*.cpp) for what a key that is missing means. Nothing here comes from an exporter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from sixfold.model.meta_model import known_type
from verification.reading.gguf.by_library import same_named

Config = Mapping[str, Any]

ARCHITECTURE_OF: dict[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "olmoe": "olmoe",
    "minimax_m2": "minimax-m2",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
}
"""transformers' model_type -> llama.cpp's architecture, where every key is known here."""

OTHERS: dict[str, str] = {
    "afmoe": "afmoe",
    "apertus": "apertus",
    "bamba": "granitehybrid",
    "bloom": "bloom",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "cohere2_moe": "cohere2moe",
    "dbrx": "dbrx",
    "deepseek_v32": "deepseek32",
    "deepseek_v4": "deepseek4",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone4": "exaone4",
    "exaone_moe": "exaone-moe",
    "falcon": "falcon",
    "falcon_h1": "falcon-h1",
    "falcon_mamba": "mamba",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma3n_text": "gemma3n",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "gemma4_unified": "gemma4",
    "gemma4_unified_text": "gemma4",
    "glm": "chatglm",
    "glm4": "glm4",
    "glm4v_moe": "glm4moe",
    "glm4v_text": "glm4",
    "glm5_next": "glm5-next",
    "glm5_next_text": "glm5-next",
    "glm_moe_dsa": "glm-dsa",
    "glm_ocr_text": "glm4",
    "gpt2": "gpt2",
    "gpt_bigcode": "starcoder",
    "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss",
    "granite": "granite",
    "granite_swa": "granite_swa",
    "granitemoe": "granitemoe",
    "granitemoe_swa": "granite_swa",
    "granitemoehybrid": "granitehybrid",
    "granitemoeshared": "granitemoe",
    "hrm_text": "hrm_text",
    "hunyuan_v1_dense": "hunyuan-dense",
    "hunyuan_v1_moe": "hunyuan-moe",
    "hunyuan_vl_text": "hunyuan_vl",
    "hy_v3": "hy_v3",
    "hy_v4": "hy_v4",
    "jais2": "jais2",
    "jamba": "jamba",
    "kimi_linear": "kimi-linear",
    "laguna": "laguna",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "mamba": "mamba",
    "mamba2": "mamba2",
    "mellum": "mellum",
    "mimo_v2_flash": "mimo2",
    "minicpm3": "minicpm3",
    "minimax": "minimax-01",
    "minimax_m3_vl": "minimax-m3",
    "ministral3": "mistral3",
    "mistral3": "mistral3",
    "mistral4": "mistral4",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "nemotron_h": "nemotron_h_moe",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "paddleocr_vl": "paddleocr",
    "phi": "phi2",
    "phi3": "phi3",
    "phimoe": "phimoe",
    "qwen2_5_vl": "qwen2vl",
    "qwen2_vl": "qwen2vl",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_5_text": "qwen35",
    "qwen3_next": "qwen3next",
    "qwen3_vl": "qwen3vl",
    "qwen3_vl_moe": "qwen3vlmoe",
    "qwen4_exp": "qwen4exp",
    "qwen4_exp_text": "qwen4exp",
    "solar_open": "glm4moe",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "step3p5": "step35",
    "youtu": "deepseek2",
}
"""The same, where those are that every decoder has (see `common_keys`)."""

_MIXERS_ALONE = ("mamba", "mamba2", "falcon_mamba")
"""Models without attention: their files say that it has no heads."""

_WITHOUT_POSITIONS = ("nemotron_h", "granitemoehybrid", *_MIXERS_ALONE)
"""Models of Mamba mixers: llama.cpp's converter states 2^20 positions whatever config.json says."""

_WITHOUT_GROUPS = ("gpt2", "gpt_neox", "hrm_text", "mpt")
"""Every head has keys of its own, and the file need not say so."""

_ELDER = ("bloom", "falcon", "gpt2", "gpt_bigcode", "mpt")
"""Model types that call norms' epsilon layer_norm_epsilon, which others have beside another."""

_PREFIXES = ("paligemma", "shieldgemma2")
"""Models whose prompts see themselves whole, which llama.cpp does not know."""


def listed_type(config: Config) -> str | None:
    """The model type of the tables above, or one that the libraries have under llama.cpp's own name: of a model around
    a decoder that is not listed, the decoder's; of a type that only its publisher knows, that of the class it names.
    config: of config.json, unchanged."""
    typed = [part for part in (config, config.get("text_config") or {}) if part.get("model_type")]
    kinds = [str(kind) for part in typed for kind in (part["model_type"], known_type(part)) if kind]
    kinds = list(takewhile(lambda kind: kind not in _PREFIXES, kinds))
    known: tuple[Mapping[str, str], ...] = (ARCHITECTURE_OF | OTHERS, same_named())
    return next((kind for names in known for kind in kinds if kind in names), None)


def architecture_of(model_type: str, config: Config) -> str:
    """llama.cpp's name, of what `listed_type` gives; of hybrids by what kinds of layers there are."""
    kinds = set(config.get("layers_block_type") or config.get("layer_types") or ())
    if model_type == "nemotron_h" and kinds and "moe" not in kinds:
        return "nemotron_h"
    if model_type == "granitemoehybrid" and kinds and not kinds & {"mamba", "linear_attention"}:
        return "granitemoe" if config.get("num_experts_per_tok") else "granite"
    return {**same_named(), **OTHERS, **ARCHITECTURE_OF}[model_type]


U32, F32, BOOL, STRING = "u32", "f32", "bool", "string"

KINDS: Mapping[str, str] = {
    "block_count": U32,
    "context_length": U32,
    "embedding_length": U32,
    "feed_forward_length": U32,
    "vocab_size": U32,
    "nextn_predict_layers": U32,
    "attention.head_count": U32,
    "attention.head_count_kv": U32,
    "attention.key_length": U32,
    "attention.value_length": U32,
    "attention.key_length_mla": U32,
    "attention.value_length_mla": U32,
    "attention.q_lora_rank": U32,
    "attention.kv_lora_rank": U32,
    "attention.layer_norm_rms_epsilon": F32,
    "attention.causal": BOOL,
    "expert_count": U32,
    "expert_used_count": U32,
    "expert_shared_count": U32,
    "expert_feed_forward_length": U32,
    "expert_shared_feed_forward_length": U32,
    "expert_group_count": U32,
    "expert_group_used_count": U32,
    "expert_gating_func": U32,
    "expert_weights_scale": F32,
    "expert_weights_norm": BOOL,
    "leading_dense_block_count": U32,
    "rope.dimension_count": U32,
    "rope.freq_base": F32,
    "rope.scale_linear": F32,
    "rope.scaling.type": STRING,
    "rope.scaling.factor": F32,
    "rope.scaling.attn_factor": F32,
    "rope.scaling.original_context_length": U32,
    "rope.scaling.finetuned": BOOL,
    "rope.scaling.yarn_ext_factor": F32,
    "rope.scaling.yarn_attn_factor": F32,
    "rope.scaling.yarn_beta_fast": F32,
    "rope.scaling.yarn_beta_slow": F32,
    "rope.scaling.yarn_log_multiplier": F32,
}
"""Every key of these architectures, and the type that llama.cpp refuses all others than."""

_GATES = {"softmax": 1, "sigmoid": 2}
_SIGMOID = ("minimax_m2", "glm4_moe", "glm4_moe_lite", "deepseek_v3")
"""Model types that score experts so where their config does not say."""

_NEEDS_GATE = "minimax-m2"
_EPSILON_OF_OLMOE = 1e-5
"""What llama.cpp's converter writes of OLMoE, whatever its config says; they all say the same."""


@dataclass(frozen=True)
class Expected:
    """values: all that are right. missing: whether the file may leave the key out, because the loader then takes one
    of them."""

    values: tuple[Any, ...]
    missing: bool = False


def expected_keys(arch: str, config: Config, *, split_latents: bool, drafts: int) -> dict[str, Expected]:
    """By key, without the architecture. split_latents: whether the file holds kv_b_proj as two (deepseek2 since 2025).
    drafts: how many layers of multi-token prediction it holds."""
    found = dict(_sizes(arch, config, drafts))
    found |= dict(_attention(arch, config, split_latents))
    if _experts(config):
        found |= dict(_of_experts(arch, config))
    found |= dict(_rope(arch, config))
    return found


def common_keys(config: Config, *, drafts: int) -> dict[str, Expected]:
    """What every decoder's file says of its size, its norms, its experts and its rotary base."""
    kind = config.get("model_type")
    unbounded, alone = kind in _WITHOUT_POSITIONS, kind in _MIXERS_ALONE
    heads = 0 if alone else config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or _keys_of_falcon(config) or heads
    stretch = None if alone else _stretch(config)
    length = 2**20 if alone else 2**18 if stretch else _positions(config)
    found = {
        "block_count": Expected((_layers(config) + drafts,)),
        "nextn_predict_layers": Expected((drafts,), missing=not drafts),
        "context_length": Expected((length, 2**20) if unbounded else (length,)),
        "embedding_length": Expected((config["hidden_size"],)),
        "attention.head_count": Expected((heads, _heads_of_layers(config, heads, drafts))),
    }
    if not alone:
        found["attention.head_count_kv"] = Expected(
            (1,) if kind == "gpt_bigcode" else _key_heads(config, groups, drafts), missing=kind in _WITHOUT_GROUPS
        )
    for key, names in (
        (
            "attention.layer_norm_rms_epsilon",
            ("rms_norm_eps", "norm_eps", *["layer_norm_epsilon"] * alone),
        ),
        (
            "attention.layer_norm_epsilon",
            ("layer_norm_eps", "norm_epsilon", *["layer_norm_epsilon"] * (kind in _ELDER)),
        ),
    ):
        value = next((config[name] for name in names if config.get(name) is not None), None)
        if value is not None:
            found[key] = Expected((value,))
    if _experts(config):
        found["expert_count"] = Expected((_experts(config),))
        fields = ("moe_topk", "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_k")
        stated = _nested_too(config)
        used = next(stated[name] for name in fields if stated.get(name))
        found["expert_used_count"] = Expected((used[0] if isinstance(used, list) else used,))
    theta = (config.get("attn_config") or {}).get("rope_theta") or rope_of(config).get("rope_theta")
    if theta is not None:
        found["rope.freq_base"] = Expected((theta * (stretch or 1.0),), missing=not stretch and theta == 10000.0)
    return found


def _keys_of_falcon(config: Config) -> int | None:
    """How many heads of them its two architectures have; None of other models, and where every head has its own."""
    if config.get("new_decoder_architecture"):
        return config.get("num_kv_heads")
    return 1 if config.get("model_type") == "falcon" and config.get("multi_query") else None


def _positions(config: Config) -> int:
    names = ("max_position_embeddings", "model_max_length", "max_seq_len", "seq_length", "hidden_size")  # (BLOOM)
    return int(next(config[name] for name in names if config.get(name)))


def _stretch(config: Config) -> float | None:
    """What NTK-aware scaling by alpha multiplies the rotary base by (conversion/hunyuan.py); None where there is none,
    and where llama.cpp does it (HunyuanVL)."""
    rope = rope_of(config)
    if rope["rope_type"] != "dynamic" or not rope.get("alpha") or config.get("model_type") == "hunyuan_vl_text":
        return None
    size = head_size(config)
    return float(rope["alpha"] ** (size / (size - 2)))


def _key_heads(config: Config, groups: int, drafts: int) -> tuple[Any, ...]:
    """One of latents; none where a layer keeps a state instead, of which a list tells."""
    if config.get("attn_layer_period"):
        period, offset = config["attn_layer_period"], config["attn_layer_offset"]
        return ([groups if layer % period == offset else 0 for layer in range(_layers(config))],)
    if config.get("attn_layer_indices"):
        return ([groups if layer in config["attn_layer_indices"] else 0 for layer in range(_layers(config))],)
    if config.get("model_type") == "mimo_v2_flash":  # twice as many where attention has a window
        kinds = config["layer_types"]
        return ([groups * (1 + (kind == "sliding_attention")) for kind in kinds],)
    if not config.get("kv_lora_rank") or config.get("model_type") == "minicpm3":  # llama.cpp runs all heads of it
        return groups, _groups_of_layers(config, groups)
    return 1, [int(kind != "linear_attention") for kind in config.get("layer_types") or ()] + [1] * drafts


def _heads_of_layers(config: Config, heads: int, drafts: int) -> list[int]:
    """Where a file states heads of queries for each layer: those with windows may have others (Step-3.5)."""
    own = {int(layer): fields for layer, fields in (config.get("per_layer_config") or {}).items()}
    found = [own.get(layer, {}).get("num_attention_heads", heads) for layer in range(_layers(config))]
    kinds = [*(config.get("mtp_layer_types") or ()), *["full_attention"] * drafts][:drafts]
    windowed = config.get("num_sliding_attention_heads") or heads
    return found + [windowed if kind == "sliding_attention" else heads for kind in kinds]


def _groups_of_layers(config: Config, groups: int) -> list[int]:
    """Heads of keys, where a file states them for each layer: those of full attention may be others (Gemma 4)."""
    own = {int(layer): fields for layer, fields in (config.get("per_layer_config") or {}).items()}
    return [own.get(layer, {}).get("num_key_value_heads", groups) for layer in range(_layers(config))]


NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.head_count_kv": (),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_gating_func": (1,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_weights_norm": (False,),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "rope.scale_linear": (0.0, 1.0),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (False,),
    "rope.scaling.yarn_ext_factor": (-1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}
"""Values that change nothing: a file may state them where its model has nothing of the kind."""


def _layers(config: Config) -> int:
    """Where they are listed by kind, their number may stand nowhere else."""
    if config.get("H_cycles"):  # HRM-Text's layers run several times each
        stack = config.get("num_layers_per_stack") or config["num_hidden_layers"]
        return int(stack * config["H_cycles"] * (config["L_cycles"] + 1))
    kinds = config.get("layers_block_type")
    return len(kinds) if kinds else int(config["num_hidden_layers"])


def _experts(config: Config) -> int:
    kinds = config.get("layers_block_type")
    if config.get("model_type") == "nemotron_h" and kinds and "moe" not in kinds:
        return 0  # whatever number its class takes where none is stated
    names, stated = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), _nested_too(config)
    return int(next((stated[name] for name in names if stated.get(name)), 0))


def _nested_too(config: Config) -> Config:
    """With the fields of DBRX's experts, which it has in a mapping of their own."""
    return {**config, **(config.get("ffn_config") or {})}


def _sizes(arch: str, config: Config, drafts: int) -> Iterator[tuple[str, Expected]]:
    yield "block_count", Expected((_layers(config) + drafts,))
    if drafts or (config.get("num_nextn_predict_layers") and arch == "glm4moe"):
        yield "nextn_predict_layers", Expected((drafts,), missing=not drafts)
    yield "context_length", Expected((config["max_position_embeddings"],))
    yield "embedding_length", Expected((config["hidden_size"],))
    if config.get("intermediate_size") is not None:
        yield "feed_forward_length", Expected((config["intermediate_size"],))
    yield "vocab_size", Expected((config["vocab_size"],), missing=True)


def _attention(arch: str, config: Config, split: bool) -> Iterator[tuple[str, Expected]]:
    heads = config["num_attention_heads"]
    yield "attention.head_count", Expected((heads,))
    eps = config.get("rms_norm_eps")
    yield "attention.layer_norm_rms_epsilon", Expected((eps, *([_EPSILON_OF_OLMOE] if arch == "olmoe" else [])))
    yield "attention.causal", Expected((config.get("is_causal") is not False,), config.get("is_causal") is not False)
    if arch == "deepseek2":
        rope, nope = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
        rank, value = config["kv_lora_rank"], config["v_head_dim"]
        yield "attention.head_count_kv", Expected((1,) if split else (heads, config.get("num_key_value_heads", heads)))
        yield "attention.key_length", Expected((rank + rope if split else nope + rope,))
        yield "attention.value_length", Expected((rank if split else value,))
        yield "attention.key_length_mla", Expected((nope + rope,), missing=not split)
        yield "attention.value_length_mla", Expected((value,), missing=not split)
        yield "attention.kv_lora_rank", Expected((rank,))
        if config.get("q_lora_rank") is not None:
            yield "attention.q_lora_rank", Expected((config["q_lora_rank"],))
        return
    groups = config.get("num_key_value_heads") or heads
    yield "attention.head_count_kv", Expected((groups,), missing=groups == heads)
    size = head_size(config)
    usual = size == config["hidden_size"] // heads
    yield "attention.key_length", Expected((size,), missing=usual)
    yield "attention.value_length", Expected((size,), missing=usual)


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _of_experts(arch: str, config: Config) -> Iterator[tuple[str, Expected]]:
    yield "expert_count", Expected((_experts(config),))
    yield "expert_used_count", Expected((config["num_experts_per_tok"],))
    for key, name in (("expert_group_count", "n_group"), ("expert_group_used_count", "topk_group")):
        value = config.get(name)
        if value is not None:
            yield key, Expected((value,), missing=(config.get("n_group") or 0) <= 1)
    inner = config.get("moe_intermediate_size") or config.get("intermediate_size")
    if arch in ("qwen2moe", "qwen3moe", "glm4moe", "deepseek2", "minimax-m2"):
        yield "expert_feed_forward_length", Expected((inner,))
    if arch == "qwen2moe":
        yield "expert_shared_feed_forward_length", Expected((config["shared_expert_intermediate_size"],))
    if arch in ("glm4moe", "deepseek2"):
        shared, dense = config.get("n_shared_experts") or 0, _leading_dense(config)
        scale, normed = config.get("routed_scaling_factor"), bool(config.get("norm_topk_prob"))
        yield "expert_shared_count", Expected((shared,))
        yield "leading_dense_block_count", Expected((dense,), missing=dense == 0)
        unscaled = scale is None or scale == 1.0
        yield "expert_weights_scale", Expected((0.0, 1.0) if unscaled else (scale,), missing=unscaled)
        yield "expert_weights_norm", Expected((normed,), missing=not normed)
    else:
        yield "expert_weights_norm", Expected((True, False), missing=True)  # these graphs do not ask
    scoring = scoring_of(config)
    asked = arch in ("glm4moe", "deepseek2", _NEEDS_GATE)
    default = {"glm4moe": "sigmoid", "deepseek2": "softmax"}.get(arch)
    if scoring in _GATES and asked:
        yield "expert_gating_func", Expected((_GATES[scoring],), missing=scoring == default)


def _leading_dense(config: Config) -> int:
    """As a number, or by the kind of each layer (GLM-4.7-Flash)."""
    if config.get("first_k_dense_replace") is not None:
        return int(config["first_k_dense_replace"])
    return len(list(takewhile(lambda kind: kind == "dense", config.get("mlp_layer_types") or ())))


def scoring_of(config: Config) -> str:
    stated = config.get("scoring_func")
    return str(stated) if stated else "sigmoid" if config.get("model_type") in _SIGMOID else "softmax"


def rope_of(config: Config) -> Config:
    """Rotary parameters of full attention, rope_theta and rope_type among them."""
    rope: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    outside = {k: config[k] for k in ("rope_theta", "partial_rotary_factor") if config.get(k) is not None}
    kind = rope.get("rope_type", rope.get("type")) or "default"
    return {**outside, **{k: v for k, v in rope.items() if v is not None}, "rope_type": kind}


def rotated(arch: str, config: Config) -> int:
    """How many channels of a head turn."""
    if arch == "deepseek2":
        return int(config["qk_rope_head_dim"])
    if arch == "minimax-m2" and config.get("rotary_dim"):
        return int(config["rotary_dim"])
    share = rope_of(config).get("partial_rotary_factor", 0.5 if arch == "glm4moe" else 1.0)
    return int(head_size(config) * share) if arch in ("glm4moe", "minimax-m2") else head_size(config)


def _rope(arch: str, config: Config) -> Iterator[tuple[str, Expected]]:
    rope, size = rope_of(config), rotated(arch, config)
    theta = rope.get("rope_theta", 10000.0)
    yield "rope.freq_base", Expected((theta,), missing=theta == 10000.0)
    yield "rope.dimension_count", Expected((size,), missing=arch != "deepseek2" and size == head_size(config))
    kind, context = rope["rope_type"], config["max_position_embeddings"]
    if kind not in ("linear", "yarn"):
        plain = ("none",) if kind in ("default", "llama3") else ("none", kind)
        yield "rope.scaling.type", Expected(plain, missing=True)
        return
    yield "rope.scaling.type", Expected((kind,), missing=kind == "linear")
    yield "rope.scaling.factor", Expected((rope.get("factor"),))
    yield "rope.scaling.finetuned", Expected((True, False), missing=True)
    if kind != "yarn":
        return
    before = rope.get("original_max_position_embeddings", context)
    yield "rope.scaling.original_context_length", Expected((before,), missing=before == context)
    for key, names, default in (
        ("yarn_ext_factor", ("extrapolation_factor",), -1.0),
        ("yarn_attn_factor", ("attention_factor", "attn_factor"), 1.0),
        ("yarn_beta_fast", ("beta_fast",), 32.0),
        ("yarn_beta_slow", ("beta_slow",), 1.0),
    ):
        value = next((rope[name] for name in names if rope.get(name) is not None), default)
        yield f"rope.scaling.{key}", Expected((value,), missing=value == default)
    if arch == "deepseek2" and rope.get("mscale_all_dim") is not None:
        yield "rope.scaling.yarn_log_multiplier", Expected((0.1 * rope["mscale_all_dim"],))
