"""Tiny random checkpoints of every MoE family that runs its experts through transformers' shared interface.

Configs are the families' own defaults with every size shrunk by the name of its field; what that leaves impossible is
corrected by one entry in CORRECTIONS. Weights are drawn with a spread at which routers choose and experts differ.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

EXPERTS, TOP_K = 8, 2

_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size(_per_layer_input)?", 96),
    (r"hidden_size", 64),
    (r"hidden_size_per_layer_input", 8),
    (r"num_hidden_layers", 4),
    (r"(swa_)?num_attention_heads", 4),
    (r"(swa_)?num_key_value_heads", 2),
    (r"(swa_|v_|global_)?head_dim", 16),
    (r"(\w+_)?intermediate_size", 32),
    (r"(num|n|moe)_(local_|routed_|num_)?experts", EXPERTS),
    (r"num_experts_per_tok(en)?|moe_k|moe_topk|top_k_experts", TOP_K),
    (r"max_position_embeddings", 128),
    (r"(\w+_)?lora_rank", 16),
    (r"qk_(rope|nope)_head_dim", 8),
    (r"first_k_dense_replace|num_dense_layers", 1),
    (r"n_group|num_expert_group", 2),
    (r"topk_group", 1),
    (r"index_head_dim", 16),
    (r"index_n_heads", 4),
    (r"index_topk", 4),
    (r"linear_num_(key|value)_heads", 2),
    (r"linear_(key_|value_)?head_dim", 16),
    (r"(mamba_)?num_heads|linear_num_heads", 4),
    (r"mamba_d_state|ssm_state_size|(mamba_)?chunk_size", 16),
    (r"router_hidden_size", 16),
    (r"num_nextn_predict_layers", 0),
    (r"\w+_token_id", 1),
)
_FROM_NONE = ("n_group", "topk_group", "num_experts", "top_k_experts", "moe_intermediate_size", "n_routed_experts")
"""Fields that are None by default, and switch the MoE layers on."""

_ROTARY_HEADS = {"head_dim": 8}  # the rotary part alone, in families with latent attention
_MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
CORRECTIONS: dict[str, dict[str, Any]] = {
    "axk1": _ROTARY_HEADS,
    "deepseek_v2": {**_ROTARY_HEADS, "num_experts_per_tok": TOP_K, "topk_method": "group_limited_greedy"},
    "deepseek_v3": _ROTARY_HEADS,
    "deepseek_v4": {"mlp_layer_types": ["moe"] * 4, "num_key_value_heads": 1, "o_groups": 2, "qk_rope_head_dim": 8},
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": TOP_K},
    "gemma4_text": {"enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": TOP_K, "global_head_dim": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 8, "mamba_d_head": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "kimi_linear": {"num_key_value_heads": 4, "layer_types": _MIXED},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "mamba_num_heads": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}

RENAMED: dict[str, dict[str, str]] = {"deepseek_v4": {"model.norm.weight": "norm.weight"}}
"""Where transformers saves a name that it does not take back, the published one."""


def moe_families() -> dict[str, list[str]]:
    """transformers' model folders that use the experts interface -> their causal language models' model types."""
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    models = Path(transformers.__file__).parent / "models"
    found: dict[str, list[str]] = {
        path.parent.name: []
        for path in sorted(models.glob("*/modeling_*.py"))
        if "@use_experts_implementation" in path.read_text()
    }
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        folder = CONFIG_MAPPING[model_type].__module__.split(".")[-2] if model_type in CONFIG_MAPPING else ""
        if folder in found:
            found[folder].append(model_type)
    return found


def tiny_config(model_type: str, **changes: Any) -> Any:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]
    fields: dict[str, Any] = {"tie_word_embeddings": False}
    defaults = config().to_dict()
    for name, value in defaults.items():
        size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), None)
        if size is not None and (type(value) is int or (value is None and name in _FROM_NONE)):
            fields[name] = size
    if "kv_lora_rank" in defaults:  # latent attention has as many key heads as query heads
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    return config(**{**fields, **CORRECTIONS.get(model_type, {}), **changes})


def make_moe(model_type: str, folder: Path, **changes: Any) -> Path:
    """Save a random BF16 model; biases of routers are float32 where the family keeps them so, and none is zero."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes), dtype=torch.bfloat16)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if re.search(r"correction_bias|expert_bias|balancing_bias", name):
                tensor.uniform_(-0.2, 0.2)
                if "balancing_bias" in name:  # Zaya's for no expert, which transformers sets when it loads
                    tensor[-1] = -1.0
            elif tensor.dim() >= 2:
                tensor.normal_(std=1.5 * tensor.shape[-1] ** -0.5)
            elif "bias" in name:
                tensor.uniform_(-0.2, 0.2)
    model.save_pretrained(folder)
    if renamed := RENAMED.get(model_type):
        weights = load_file(folder / "model.safetensors")
        weights = {renamed.get(name, name): tensor for name, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def make_wrapped(model_type: str, text_type: str, folder: Path) -> Path:
    """`make_moe`, with the text model's config inside of a multimodal one, as such checkpoints are published."""
    make_moe(text_type, folder)
    config = json.loads((folder / "config.json").read_text())
    outer = {"model_type": model_type, "text_config": config, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(outer))
    return folder
