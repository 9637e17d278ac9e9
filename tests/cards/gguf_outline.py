"""GGUF files that have every key and tensor of a model and no data: sparse files that llama.cpp plans memory for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import ExpertGatingFuncType, GGMLQuantizationType, GGUFWriter

ARCHITECTURES = {"llama": "llama", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "minimax_m2": "minimax-m2"}
"""model_type -> GGUF architecture, of what can be outlined."""


def write_outline(config: Mapping[str, Any], path: Path) -> int:
    """Write the outline of a model with BF16 matrices; bytes of all its tensors. The file takes up next to no disk."""
    writer = GGUFWriter(path, ARCHITECTURES[config["model_type"]])
    _add_keys(writer, config)
    total = 0
    for name, shape in _tensors(config).items():
        matrix = len(shape) > 1 and "gate_inp" not in name
        nbytes = int(np.prod(shape)) * (2 if matrix else 4)
        raw = GGMLQuantizationType.BF16 if matrix else GGMLQuantizationType.F32
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, raw_dtype=raw)
        total += nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        os.truncate(file.fileno(), path.stat().st_size + total + 32 * 1024 * 1024)  # more than all padding
    return total


def _add_keys(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    if _experts(config):
        writer.add_expert_count(_experts(config))
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(_expert_width(config))
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)


def _tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head = config["hidden_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config["vocab_size"], hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (config["vocab_size"], hidden),
    }
    for layer in range(config["num_hidden_layers"]):
        of: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (hidden,),
            "attn_q.weight": (query, hidden),
            "attn_k.weight": (key, hidden),
            "attn_v.weight": (key, hidden),
            "attn_output.weight": (hidden, query),
            "ffn_norm.weight": (hidden,),
        }
        if config["model_type"].startswith("qwen3"):
            of |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
        if config["model_type"] == "minimax_m2":
            of |= {"attn_q_norm.weight": (query,), "attn_k_norm.weight": (key,)}
            of |= {"exp_probs_b.bias": (_experts(config),)}
        if experts := _experts(config):
            width = _expert_width(config)
            of |= {"ffn_gate_inp.weight": (experts, hidden), "ffn_down_exps.weight": (experts, hidden, width)}
            of |= {f"ffn_{part}_exps.weight": (experts, width, hidden) for part in ("gate", "up")}
        else:
            width = config["intermediate_size"]
            of |= {"ffn_gate.weight": (width, hidden), "ffn_up.weight": (width, hidden)}
            of |= {"ffn_down.weight": (hidden, width)}
        found |= {f"blk.{layer}.{name}": shape for name, shape in of.items()}
    return found


def _experts(config: Mapping[str, Any]) -> int:
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)


def _expert_width(config: Mapping[str, Any]) -> int:
    return int(config.get("moe_intermediate_size") or config["intermediate_size"])
