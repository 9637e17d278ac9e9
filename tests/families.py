"""Tiny random checkpoints of each supported family, saved by transformers itself, so that names on disk are its own."""

from pathlib import Path
from typing import Any

import torch

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}

_MLA: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "minimax_m2": {**COMMON, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**COMMON, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256},
    "mixtral": {**COMMON, "num_local_experts": 4},
    "deepseek_v3": {
        **{k: v for k, v in COMMON.items() if k != "head_dim"},
        **_MLA,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 256,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "glm4_moe": {
        **COMMON,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 256,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "hunyuan_v1_moe": {**COMMON, "num_experts": 4, "moe_topk": 2},
    "afmoe": {
        **COMMON,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "num_dense_layers": 1,
    },
    "jamba": {
        **COMMON,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "qwen3_next": {
        **COMMON,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "gpt_oss": {**COMMON, "num_local_experts": 4},
    "qwen3_5_moe_text": {
        **COMMON,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "kimi_linear": {
        **{k: v for k, v in COMMON.items() if k != "head_dim"},
        **_MLA,
        "num_experts": 4,
        "num_experts_per_token": 2,
        "moe_intermediate_size": 256,
        "linear_head_dim": 64,
        "linear_num_heads": 4,
        "pad_token_id": 0,
    },
    "nemotron_h": {
        **COMMON,
        "layers_block_type": ["mamba", "moe", "attention", "mlp"],
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "mamba_num_heads": 8,
        "mamba_head_dim": 32,
        "ssm_state_size": 32,
    },
    "jetmoe": {**COMMON, "num_local_experts": 4},
    "llama": COMMON,
    "qwen3": {**COMMON, "tie_word_embeddings": True},
    "gemma2": {**COMMON, "tie_word_embeddings": True, "query_pre_attn_scalar": 64},
}
"""transformers' model_type -> arguments of its config class."""

NOT_LAYER_BY_LAYER: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {**COMMON, "tie_word_embeddings": True, "query_pre_attn_scalar": 64},
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 4,
    },
    "deepseek_v4": {
        **{k: v for k, v in COMMON.items() if k != "intermediate_size"},
        "qk_rope_head_dim": 32,
        "q_lora_rank": 128,
        "o_lora_rank": 64,
        "o_groups": 2,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "num_hash_layers": 1,
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 4,
    },
    "glm_moe_dsa": {
        **{k: v for k, v in COMMON.items() if k != "head_dim"},
        **_MLA,
        "n_routed_experts": 8,
        "moe_intermediate_size": 256,
        "num_experts_per_tok": 2,
        "index_n_heads": 4,
        "index_head_dim": 64,
        "index_topk": 4,
    },
    "longcat_flash": {
        **{k: v for k, v in COMMON.items() if k != "num_hidden_layers"},
        **_MLA,
        "head_dim": 32,
        "num_layers": 1,
        "n_routed_experts": 8,
        "moe_topk": 2,
        "zero_expert_num": 2,
        "expert_ffn_hidden_size": 256,
        "ffn_hidden_size": 512,
    },
    "dbrx": {
        "vocab_size": 512,
        "d_model": 256,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 256,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 256, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 256},
    },
}
"""Families whose layers hand more than hidden states on or have lists of their own, that see images, or (dbrx) that do
not run as they are."""


def make_family(model_type: str, folder: Path, **changes: Any) -> Path:
    """Save a random BF16 model of `model_type`; correction biases are float32 and not zero, as trained ones are."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[model_type](**{**(FAMILIES | NOT_LAYER_BY_LAYER)[model_type], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    _draw(model)
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):
            bias = module.e_score_correction_bias
            bias.data = torch.linspace(-0.05, 0.05, bias.numel(), dtype=torch.float32).view(bias.shape)
    model.save_pretrained(folder)
    return folder


def _draw(model: torch.nn.Module) -> None:
    """Normal numbers drawn in float32. transformers draws in the model's own dtype, and a uniform number of BF16's 8
    bits has a least value: by some builds of PyTorch every matrix then has the same largest weight."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.02 * drawn)
