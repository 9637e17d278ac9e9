"""GGUF files that have every key and tensor of a model and no data: sparse files that llama.cpp plans memory for."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import ExpertGatingFuncType, GGMLQuantizationType, GGUFWriter

Shapes = dict[str, tuple[int, ...]]
"""Name of a tensor -> its shape, slowest dimension first."""


@contextmanager
def outlined(config: Mapping[str, Any], folder: Path) -> Iterator[tuple[Path, int]]:
    """An outline and the bytes of its tensors. It does not stay, as some tools would fill its terabytes."""
    path = folder / "outline.gguf"
    try:
        yield path, _write(config, path)
    finally:
        path.unlink(missing_ok=True)


def _write(config: Mapping[str, Any], path: Path) -> int:
    """Write the outline of a model with BF16 matrices; bytes of all its tensors. The file takes up next to no disk."""
    made = _OUTLINES[config["model_type"]]
    writer = GGUFWriter(path, made.architecture)
    _add_keys(writer, config)
    made.add_keys(writer, config)
    total = 0
    for name, shape in _tensors(config, made.layer).items():
        matrix = len(shape) > 1 and not any(part in name for part in ("gate_inp", "conv1d", "ssm_a"))
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


def _tensors(config: Mapping[str, Any], layer: Callable[[Mapping[str, Any], int], Shapes]) -> Shapes:
    hidden = config["hidden_size"]
    found: Shapes = {
        "token_embd.weight": (config["vocab_size"], hidden),
        "output_norm.weight": (hidden,),
        "output.weight": (config["vocab_size"], hidden),
    }
    for index in range(config["num_hidden_layers"]):
        found |= {f"blk.{index}.{name}": shape for name, shape in layer(config, index).items()}
    return found


def _add_keys(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config.get("dense_intermediate_size") or config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    if _experts(config):
        writer.add_expert_count(_experts(config))
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(_expert_width(config))
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)


def _add_heads(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])


def _add_window(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    _add_heads(writer, config)
    writer.add_sliding_window(config["sliding_window"])


def _add_latent(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    rank, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_head_count_kv(1)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rope)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_rope_dimension_count(rope)
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_expert_shared_count(1)
    writer.add_leading_dense_block_count(0)


def _add_delta_net(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    _add_heads(writer, config)
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_inner_size(config["linear_num_value_heads"] * config["linear_value_head_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_expert_shared_feed_forward_length(_expert_width(config))


def _add_indexed_latent(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    _add_latent(writer, config)
    _add_indexer(writer, config["index_n_heads"], config["index_head_dim"], config["index_topk"])


def _add_sparse_blocks(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    sparse = config["sparse_attention_config"]
    _add_heads(writer, config)
    writer.add_expert_shared_count(1)
    writer.add_leading_dense_block_count(sparse["sparse_attention_freq"].index(1))
    heads, width, blocks = (sparse[f"sparse_{key}"] for key in ("num_index_heads", "index_dim", "topk_blocks"))
    _add_indexer(writer, heads, width, blocks)
    writer.add_uint32(f"{writer.arch}.attention.indexer.block_size", sparse["sparse_block_size"])
    writer.add_uint32(f"{writer.arch}.attention.indexer.local_blocks", sparse["sparse_local_block"])


def _add_mamba(writer: GGUFWriter, config: Mapping[str, Any]) -> None:
    """Layers without KV heads are Mamba's."""
    heads = config["num_key_value_heads"]
    writer.add_head_count_kv([heads if _attends(config, i) else 0 for i in range(config["num_hidden_layers"])])
    writer.add_ssm_conv_kernel(config["mamba_d_conv"])
    writer.add_ssm_inner_size(config["mamba_expand"] * config["hidden_size"])
    writer.add_ssm_state_size(config["mamba_d_state"])
    writer.add_ssm_time_step_rank(config["mamba_dt_rank"])


def _attends(config: Mapping[str, Any], index: int) -> bool:
    return bool(index % config["attn_layer_period"] == config["attn_layer_offset"])


def _add_indexer(writer: GGUFWriter, heads: int, width: int, chosen: int) -> None:
    for key, value in (("head_count", heads), ("key_length", width), ("top_k", chosen)):
        writer.add_uint32(f"{writer.arch}.attention.indexer.{key}", value)


def _llama(config: Mapping[str, Any], index: int) -> Shapes:
    return _attention(config) | _mlp(config)


def _qwen3(config: Mapping[str, Any], index: int) -> Shapes:
    head = config["head_dim"]
    return _llama(config, index) | {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}


def _minimax_m2(config: Mapping[str, Any], index: int) -> Shapes:
    head = config["head_dim"]
    return _llama(config, index) | {
        "attn_q_norm.weight": (config["num_attention_heads"] * head,),
        "attn_k_norm.weight": (config["num_key_value_heads"] * head,),
        "exp_probs_b.bias": (_experts(config),),
    }


def _gemma3(config: Mapping[str, Any], index: int) -> Shapes:
    hidden = config["hidden_size"]
    norms: Shapes = {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    return _qwen3(config, index) | norms


def _deepseek_v3(config: Mapping[str, Any], index: int) -> Shapes:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rank, rope, nope = config["kv_lora_rank"], config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    return {
        "attn_norm.weight": (hidden,),
        "attn_q_a_norm.weight": (config["q_lora_rank"],),
        "attn_kv_a_norm.weight": (rank,),
        "attn_q_a.weight": (config["q_lora_rank"], hidden),
        "attn_q_b.weight": (heads * (nope + rope), config["q_lora_rank"]),
        "attn_kv_a_mqa.weight": (rank + rope, hidden),
        "attn_k_b.weight": (heads, rank, nope),
        "attn_v_b.weight": (heads, config["v_head_dim"], rank),
        "attn_output.weight": (hidden, heads * config["v_head_dim"]),
        "ffn_norm.weight": (hidden,),
        "exp_probs_b.bias": (_experts(config),),
        **_mlp(config),
        **_shared_expert(config),
    }


def _deepseek_v32(config: Mapping[str, Any], index: int) -> Shapes:
    width, heads = config["index_head_dim"], config["index_n_heads"]
    return _deepseek_v3(config, index) | {
        "indexer.k_norm.weight": (width,),
        "indexer.k_norm.bias": (width,),
        "indexer.proj.weight": (heads, config["hidden_size"]),
        "indexer.attn_k.weight": (width, config["hidden_size"]),
        "indexer.attn_q_b.weight": (heads * width, config["q_lora_rank"]),
    }


def _minimax_m3(config: Mapping[str, Any], index: int) -> Shapes:
    hidden, sparse = config["hidden_size"], config["sparse_attention_config"]
    head: Shapes = {f"attn_{part}_norm.weight": (config["head_dim"],) for part in "qk"}
    if not sparse["sparse_attention_freq"][index]:
        return _attention(config) | head | _dense(hidden, config["dense_intermediate_size"])
    width = sparse["sparse_index_dim"]
    return {
        **_attention(config),
        **head,
        **_mlp(config),
        **_shared_expert(config),
        "exp_probs_b.bias": (_experts(config),),
        "indexer.q_proj.weight": (sparse["sparse_num_index_heads"] * width, hidden),
        "indexer.k_proj.weight": (width, hidden),
        "indexer.q_norm.weight": (width,),
        "indexer.k_norm.weight": (width,),
    }


def _qwen3_next(config: Mapping[str, Any], index: int) -> Shapes:
    hidden = config["hidden_size"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values, heads = config["linear_num_value_heads"] * config["linear_value_head_dim"], config["linear_num_value_heads"]
    found: Shapes = {
        "attn_norm.weight": (hidden,),
        "post_attention_norm.weight": (hidden,),
        "ffn_gate_inp_shexp.weight": (hidden,),
        **_mlp(config),
        **_shared_expert(config),
    }
    if (index + 1) % config["full_attention_interval"] == 0:
        attention = _attention(config)
        query, width = attention["attn_q.weight"]  # a gate comes with it
        del attention["ffn_norm.weight"]
        head: Shapes = {f"attn_{part}_norm.weight": (config["head_dim"],) for part in "qk"}
        return found | attention | head | {"attn_q.weight": (2 * query, width)}
    return found | {
        "attn_qkv.weight": (2 * keys + values, hidden),
        "attn_gate.weight": (values, hidden),
        "ssm_conv1d.weight": (2 * keys + values, config["linear_conv_kernel_dim"]),
        "ssm_dt.bias": (heads,),
        "ssm_a": (heads,),
        "ssm_ba.weight": (2 * heads, hidden),
        "ssm_norm.weight": (config["linear_value_head_dim"],),
        "ssm_out.weight": (hidden, values),
    }


def _jamba(config: Mapping[str, Any], index: int) -> Shapes:
    """With a dense MLP in every layer."""
    hidden = config["hidden_size"]
    if _attends(config, index):
        head = hidden // config["num_attention_heads"]
        return _attention({**config, "head_dim": head}) | _dense(hidden, config["intermediate_size"])
    inner, state, rank = config["mamba_expand"] * hidden, config["mamba_d_state"], config["mamba_dt_rank"]
    return {
        "attn_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
        **_dense(hidden, config["intermediate_size"]),
        "ssm_in.weight": (2 * inner, hidden),
        "ssm_conv1d.weight": (inner, config["mamba_d_conv"]),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (rank + 2 * state, inner),
        "ssm_dt_norm.weight": (rank,),
        "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,),
        "ssm_b_norm.weight": (state,),
        "ssm_c_norm.weight": (state,),
        "ssm_a": (inner, state),
        "ssm_d": (inner,),
        "ssm_out.weight": (hidden, inner),
    }


def _attention(config: Mapping[str, Any]) -> Shapes:
    hidden, head = config["hidden_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (query, hidden),
        "attn_k.weight": (key, hidden),
        "attn_v.weight": (key, hidden),
        "attn_output.weight": (hidden, query),
        "ffn_norm.weight": (hidden,),
    }


def _mlp(config: Mapping[str, Any]) -> Shapes:
    hidden = config["hidden_size"]
    if experts := _experts(config):
        width = _expert_width(config)
        router: Shapes = {"ffn_gate_inp.weight": (experts, hidden), "ffn_down_exps.weight": (experts, hidden, width)}
        return router | {f"ffn_{part}_exps.weight": (experts, width, hidden) for part in ("gate", "up")}
    return _dense(hidden, config["intermediate_size"])


def _dense(hidden: int, width: int) -> Shapes:
    return {
        "ffn_gate.weight": (width, hidden),
        "ffn_up.weight": (width, hidden),
        "ffn_down.weight": (hidden, width),
    }


def _shared_expert(config: Mapping[str, Any]) -> Shapes:
    hidden, width = config["hidden_size"], _expert_width(config)
    found: Shapes = {f"ffn_{part}_shexp.weight": (width, hidden) for part in ("gate", "up")}
    return found | {"ffn_down_shexp.weight": (hidden, width)}


def _experts(config: Mapping[str, Any]) -> int:
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((int(config[name]) for name in names if config.get(name, 0) > 1), 0)


def _expert_width(config: Mapping[str, Any]) -> int:
    return int(config.get("moe_intermediate_size") or config["intermediate_size"])


@dataclass(frozen=True)
class _Outline:
    architecture: str
    add_keys: Callable[[GGUFWriter, Mapping[str, Any]], None]
    layer: Callable[[Mapping[str, Any], int], Shapes]


_OUTLINES = {
    "llama": _Outline("llama", _add_heads, _llama),
    "qwen3": _Outline("qwen3", _add_heads, _qwen3),
    "qwen3_moe": _Outline("qwen3moe", _add_heads, _qwen3),
    "minimax_m2": _Outline("minimax-m2", _add_heads, _minimax_m2),
    "gemma3_text": _Outline("gemma3", _add_window, _gemma3),
    "deepseek_v3": _Outline("deepseek2", _add_latent, _deepseek_v3),
    "deepseek_v32": _Outline("deepseek32", _add_indexed_latent, _deepseek_v32),
    "minimax_m3": _Outline("minimax-m3", _add_sparse_blocks, _minimax_m3),
    "jamba": _Outline("jamba", _add_mamba, _jamba),
    "qwen3_next": _Outline("qwen3next", _add_delta_net, _qwen3_next),
}
"""model_type -> the keys and tensors that llama.cpp's loader of its architecture asks for."""
