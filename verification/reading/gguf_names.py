"""GGUF tensor names -> names on disk, from a table that is independent of the exporter's.

Stated from the architectures' tables in llama.cpp (src/llama-arch.cpp) and from transformers' modules. llama.cpp stacks
the experts of a layer; of each stacked tensor, row block N is expert N.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_OUTSIDE = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}

_EVERY = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_MIXTRAL = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
    "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
    "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
}
_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_SHARED = {f"ffn_{part}_shexp": f"mlp.shared_experts.{part}_proj" for part in ("gate", "up", "down")}
_LATENT = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
}
_TABLES: Mapping[str, Mapping[str, str]] = {
    "llama": _EVERY | _MIXTRAL,
    "qwen2": _EVERY,
    "qwen3": _EVERY,
    "qwen2moe": _EVERY
    | _EXPERTS
    | {f"ffn_{part}_shexp": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")}
    | {"ffn_gate_inp_shexp": "mlp.shared_expert_gate"},
    "qwen3moe": _EVERY | _EXPERTS,
    "olmoe": _EVERY | _EXPERTS,
    "minimax-m2": _EVERY | _MIXTRAL,
    "glm4moe": {k: v for k, v in _EVERY.items() if k != "ffn_norm"}
    | {"post_attention_norm": "post_attention_layernorm"}
    | _EXPERTS
    | _SHARED,
    "deepseek2": _EVERY | _EXPERTS | _SHARED | _LATENT,
}
_BIASES = {
    "minimax-m2": "block_sparse_moe.e_score_correction_bias",
    "glm4moe": "mlp.gate.e_score_correction_bias",
    "deepseek2": "mlp.gate.e_score_correction_bias",
}
ARCHITECTURES = tuple(_TABLES)
COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that no checkpoint holds."""

PAIRED_ROPE = ("llama",)
"""Architectures whose q and k rows llama.cpp takes interleaved: row 2i + j of a head is row i + j * D/2 on disk."""

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Place:
    """name: on disk, with {} for the expert where `stacked`. half: "k" or "v" of a split kv_b_proj. rope: whether rows
    are interleaved."""

    name: str
    stacked: bool = False
    half: str = ""
    rope: bool = False


def place_of(arch: str, name: str) -> Place | None:
    """None for a name that the architecture does not have."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE and kind == "weight":
        return Place(f"{_OUTSIDE[stem]}.weight")
    found = _BLOCK.fullmatch(name)
    if not found:
        return None
    layer, part, kind = found.groups()
    prefix = f"model.layers.{layer}."
    if part == "exp_probs_b":
        return Place(prefix + _BIASES[arch]) if arch in _BIASES and kind == "bias" else None
    if arch == "deepseek2" and part in ("attn_k_b", "attn_v_b"):
        return Place(f"{prefix}self_attn.kv_b_proj.weight", half=part[5])
    known = _TABLES.get(arch, {}).get(part)
    if known is None:
        return None
    rope = arch in PAIRED_ROPE and part in ("attn_q", "attn_k")
    return Place(f"{prefix}{known}.{kind}", "{}" in known, rope=rope)
