"""Tiny random checkpoints of every text-capable family of the installed transformers, saved as transformers saves them.

Configs are the families' own defaults, with every size shrunk by the name of its field, inside of nested configs too.
What that leaves impossible is corrected by one entry in CORRECTIONS, and what is left out is listed with the reason.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

EXPERTS, TOP_K, VOCABULARY = 4, 2, 512

Sizes = tuple[tuple[str, int], ...]

_TEXT: Sizes = (
    (r"vocab_size(_per_layer_input)?", VOCABULARY),
    (r"hidden_size|n_embd|d_model|hidden_dim", 256),
    (r"hidden_size_per_layer_input", 32),
    (r"num_hidden_layers|n_layers?|num_layers", 4),
    (r"(swa_|global_)?num_attention_heads|n_heads?|num_heads", 4),
    (r"(swa_|num_global_|num_)?(num_)?key_value_heads|num_kv_heads", 2),
    (r"(swa_|v_|global_|kv_)?head_dim", 64),
    (r"(\w+_)?intermediate_size\w*|ffn_dim|n_inner|(expert_)?ffn_hidden_size", 256),
    (r"(num|n|moe)_(local_|routed_|num_)?experts", EXPERTS),
    (r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts", TOP_K),
    (r"max_position_embeddings|n_positions|max_seq_len", 256),
    (r"(\w+_)?lora_rank", 64),
    (r"qk_(rope|nope)_head_dim", 32),
    (r"first_k_dense_replace|num_dense_layers", 1),
    (r"n_group|num_expert_group", 2),
    (r"topk_group", 1),
    (r"index_head_dim", 64),
    (r"index_n_heads", 4),
    (r"index_topk", 4),
    (r"linear_num_(key|value)_heads", 2),
    (r"linear_(key_|value_)?head_dim", 64),
    (r"linear_num_heads", 4),
    (r"router_hidden_size", 64),
    (r"(mamba_)?chunk_size", 16),
    (r"num_nextn_predict_layers|num_mtp_modules|mtp_num_hidden_layers", 0),
)
_TOWER: Sizes = (
    (r"hidden_size|embed_dim|width|d_model", 64),
    (r"out_hidden_size|text_hidden_size|proj_dim|projection_dim|output_dim", 256),
    (r"num_hidden_layers|depth|num_layers|layers|encoder_layers", 2),
    (r"(num_|attention_|n_|encoder_attention_|num_attention_|num_key_value_)heads", 4),
    (r"intermediate_size|mlp_dim|encoder_ffn_dim", 64),
    (r"head_dim", 16),
    (r"image_size|input_size", 56),
    (r"num_position_embeddings", 16),
)
_TOWERS = re.compile(r"vision|audio|vq|image|visual|speech|perceiv|qformer|encoder")
_FROM_NONE = ("n_group", "topk_group", "num_experts", "top_k_experts", "moe_intermediate_size", "n_routed_experts")
"""Fields that are None by default, and switch the MoE layers on."""

_AXIAL = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [12, 10, 10]}
_PARTLY_AXIAL = {**_AXIAL, "partial_rotary_factor": 0.5, "mrope_section": [4, 6, 6]}
_ALTERNATING = ["linear_attention", "full_attention"] * 2
CORRECTIONS: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 32},
    "axk2": {"head_dim": 32},
    "bamba": {"attn_layer_indices": [1, 3], "mamba_n_heads": 8, "mamba_d_head": 64, "mamba_d_state": 16},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _AXIAL}},
    "cosmos3_edge_text": {"rope_parameters": _AXIAL},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},  # transformers runs none without
        "ffn_config": {"hidden_size": 256, "ffn_hidden_size": 256},
    },
    "deepseek_v3": {"head_dim": 32},
    "deepseek_v4": {"mlp_layer_types": ["moe"] * 4, "num_key_value_heads": 1, "o_groups": 2, "o_lora_rank": 64},
    "deepseek_v2": {"head_dim": 32, "topk_method": "group_limited_greedy", "num_experts_per_tok": TOP_K},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": TOP_K},
    "ernie4_5_vl_moe_text": {
        "rope_parameters": {**_AXIAL, "mrope_section": [11, 11, 10]},
        "moe_num_experts": EXPERTS,
        "moe_intermediate_size": [256, 128],
        "moe_k": TOP_K,
    },
    "falcon_mamba": {"intermediate_size": 512},
    "falcon_h1": {"mamba_d_ssm": 256, "mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 16},
    "gemma3n_text": {
        "hidden_size_per_layer_input": 256,
        "intermediate_size": [256] * 4,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4_text": {"enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": TOP_K, "global_head_dim": 128},
    "gemma4_unified_text": {"global_head_dim": 128, "final_logit_softcapping": 30.0},
    "glm4v_moe_text": {"rope_parameters": _PARTLY_AXIAL},
    "glm4v_text": {"rope_parameters": _PARTLY_AXIAL},
    "glm5_next_text": {"index_topk": 16, "qk_rope_head_dim": 0},
    "glm_moe_dsa": {"head_dim": 32},
    "glm_ocr_text": {"rope_parameters": {**_AXIAL, "partial_rotary_factor": 1.0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 8, "mamba_d_head": 64},
    "hunyuan_v1_dense": {"head_dim": 64},
    "hunyuan_v1_moe": {"head_dim": 64},
    "hunyuan_vl_text": {
        "eod_token_id": None,
        "head_dim": 64,
        "rope_parameters": {
            "rope_type": "dynamic",
            "rope_theta": 1e4,
            "alpha": 1000.0,
            "factor": 1.0,
            "mrope_section": [8, 8, 8, 8],
        },
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": {"num_key_value_heads": 4, "layer_types": _ALTERNATING},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"num_layers": 2, "num_hidden_layers": 4, "zero_expert_num": 2, "head_dim": 32},
    "mamba": {"intermediate_size": 512},
    "mamba2": {"num_heads": 8, "head_dim": 64},
    "mimo_v2_flash": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}
            for kind, theta in (("full_attention", 5e6), ("sliding_attention", 1e4))
        }
    },
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention"] + ["minimax_m3_sparse"] * 3,
        "mlp_layer_types": ["dense"] + ["sparse"] * 3,
        "index_n_heads": 2,
        "rotary_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
    },
    "ministral": {"head_dim": 64},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 64,
        "n_routed_experts": EXPERTS,
    },
    "olmo_hybrid": {"layer_types": _ALTERNATING},
    "paddleocr_vl_text": {"rope_parameters": _AXIAL},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},
    "qwen2_vl_text": {"rope_parameters": _AXIAL},
    "qwen2_5_vl_text": {"rope_parameters": _AXIAL},
    "qwen3_5_text": {"layer_types": _ALTERNATING},
    "qwen3_5_moe_text": {"layer_types": _ALTERNATING},
    "qwen3_next": {"layer_types": _ALTERNATING},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "qwen_sparse_attention"] * 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 64,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "output_gate_type": "sigmoid",
        "eos_token_id": 5,
        "ple_layer_ids": [3],
        "ngram_vocab_size_base": 50,
        "heads_per_ngram": 4,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
    },
    "step3p5": {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense"] + ["sparse"] * 3,
        "num_sliding_attention_heads": 8,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        },
        "share_expert_dim": 256,
        "sliding_window": 64,
        "swiglu_limits": [0.0, 0.0, 0.5, 0.5],
        "swiglu_limits_shared": [0.0, 0.0, 0.0, 0.25],
    },
    "youtu": {"head_dim": 32},
    "zamba2": {"layers_block_type": _ALTERNATING[:1] * 2 + ["hybrid", "linear_attention"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""model_type of a config or of one nested in it -> fields that shrinking leaves impossible or switches off."""

_COMPUTED = re.compile(r"\.(slope_rate|(query|key|diagonal)_decay)$")
"""Buffers that are no weights, and saved with them (MiniMax)."""

_CORRECTION_BIAS = re.compile(r"(correction_bias|expert_bias|balancing_biases)$")

LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "encoders, and decoders that attend to an encoder": (
        "bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small camembert data2vec-text electra"
        " ernie florence2 marian mbart megatron-bert mvp pegasus plbart prophetnet reformer rembert roberta"
        " roberta-prelayernorm roc_bert roformer t5gemma2 trocr udop vision-encoder-decoder whisper xlm xlm-roberta"
        " xlm-roberta-xl xlnet xmod pix2struct pp_formulanet git blip"
    ).split(),
    "answer nothing without a picture": "blip-2 idefics instructblip instructblipvideo".split(),
    "sound, music, robots, proteins and pictures rather than text": (
        "moshi musicgen musicgen_melody pi0 evolla cosmos3_edge cosmos3_omni qwen2_5_omni_thinker"
        " qwen3_omni_moe_thinker janus emu3 chameleon diffusion_gemma"
    ).split(),
    "drafts for another model, which they need": "gemma4_assistant gemma4_unified_assistant".split(),
    "need the timm package": "fast_vlm gemma3n perception_lm".split(),
    "no tiny model can be built of them by shrinking sizes": (
        "blt cpmant ctrl inkling_mm_model kosmos-2 kosmos-2.5 zamba granite4_vision deepseek_ocr2 muse_glimmer"
    ).split(),
}


@cache
def families() -> tuple[str, ...]:
    """Every model type of transformers' causal and image-text classes but LEFT_OUT."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    causal, seeing = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    out = {name for names in LEFT_OUT.values() for name in names}
    return tuple(sorted(name for name in {*causal, *seeing} - out if name in CONFIG_MAPPING))


def tiny_config(model_type: str, **changes: Any) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type](**{**_shrunk(CONFIG_MAPPING[model_type], _TEXT), **changes})


def _shrunk(kind: Any, sizes: Sizes) -> dict[str, Any]:
    """Arguments of a config class: the fields that name a size, and nested configs in the same way."""
    from transformers import PreTrainedConfig

    default = kind()
    stated = default.to_dict()
    fields: dict[str, Any] = {}
    for name, value in stated.items():
        inner = vars(default).get(name)
        if isinstance(inner, PreTrainedConfig):
            nested = _shrunk(type(inner), _TOWER if _TOWERS.search(name) else _TEXT)
            fields[name] = {"model_type": inner.model_type, **nested}
            continue
        size = next((size for pattern, size in sizes if re.fullmatch(pattern, name)), None)
        if size is not None and (type(value) is int or (value is None and name in _FROM_NONE)):
            fields[name] = size
        elif name.endswith("_token_id") and isinstance(value, list):
            fields[name] = [VOCABULARY - 10 - index for index in range(len(value))]
        elif name.endswith(("_token_id", "_token_index")) and type(value) is int and value >= VOCABULARY:
            fields[name] = VOCABULARY - 1 - len([n for n in fields if n.endswith(("_token_id", "_token_index"))])
    if "kv_lora_rank" in stated:  # latent attention has as many key heads as query heads
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    for name in ("head_dim", "global_head_dim"):  # of each layer, in families of mixed sizes
        if stated.get("per_layer_config"):
            fields[name] = 64
    return {**fields, **CORRECTIONS.get(kind.model_type, {})}


def make_family(model_type: str, folder: Path, **changes: Any) -> Path:
    """Save a random BF16 model with a byte-level tokenizer; correction biases are float32 and not zero, as trained ones
    are."""
    import transformers
    from transformers.models.auto import modeling_auto

    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM
    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        auto = transformers.AutoModelForImageTextToText
    elif model_type in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        auto = transformers.AutoModelForMultimodalLM
    elif model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        auto = transformers.AutoModelForSeq2SeqLM
    model = auto.from_config(tiny_config(model_type, **changes), dtype=torch.bfloat16)
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if not tensor.is_floating_point() or _COMPUTED.search(name):
                continue
            if _CORRECTION_BIAS.search(name):
                tensor.uniform_(-0.2, 0.2)
                tensor.data = tensor.data.float()
                if "balancing_biases" in name:  # Zaya's for no expert, which transformers sets when it loads
                    tensor[-1] = -1.0
            elif tensor.dim() >= 2:
                tensor.normal_(std=1.5 * tensor.shape[-1] ** -0.5)
            elif "bias" in name:
                tensor.uniform_(-0.2, 0.2)
            tensor.nan_to_num_(posinf=1.0, neginf=-1.0)  # logarithms of what BF16 rounds to 0 (RecurrentGemma)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """A token for each byte and one merge, cut into words as Qwen cuts them."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    bytes_of = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*bytes_of, "th"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(words), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
