"""Multi-token prediction (MTP) layers as llama.cpp holds them: blocks behind the decoder's, with `nextn.*` beside what
a decoder layer has. transformers does not run them."""

import re
from collections.abc import Iterable

HELD_BY = (
    *("cohere2moe", "deepseek32", "exaone-moe", "glm-dsa", "glm4", "glm4moe", "glm5-next", "hy_v3"),
    *("nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next", "step35"),
)
"""Architectures whose files may hold them. llama.cpp's converter leaves out those of others (DeepSeek-V3)."""

_OF_TWO = ("nemotron_h_moe",)
"""Architectures of which each is two layers on disk, attention and then experts, as any layer of theirs is but one."""

_NUMBERED = re.compile(r"^(?:model\.)?mtp\.layers\.(\d+)\.(.+)")
_AROUND = re.compile(r"^(?:model\.)?mtp\.(fc|pre_fc_norm_embedding|pre_fc_norm_hidden|norm)\.(\w+)")
_JOINED = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head.norm",
}
"""What Qwen's module around its MTP layer calls what others have in the layer."""

_HELD = {
    "eh_proj": "eh_proj",
    "enorm": "enorm",
    "hnorm": "hnorm",
    "embed_tokens": "embed_tokens",
    "shared_head.head": "shared_head_head",
    "shared_head.norm": "shared_head_norm",
    "final_layernorm": "shared_head_norm",  # Hunyuan
    "transformer.shared_head.norm": "shared_head_norm",  # StepFun
    "transformer.shared_head.output": "shared_head_head",
}
_STACKS = {
    "mlp.experts.gate_up_proj": "ffn_gate_exps+ffn_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
}
"""Experts in one array, as Qwen3.5 is saved: [experts, out, in], gate's rows before up's."""


def in_layers(name: str, layers: int, architecture: str) -> str:
    """`mtp.layers.0.X` as `model.layers.N.X`, of a model with N decoder layers; other names as they are."""
    numbered = _NUMBERED.match(name)
    if numbered and architecture in _OF_TWO:
        layer, second = divmod(int(numbered[1]), 2)
        part = re.sub(r"^norm\.", "post_attention_layernorm.", numbered[2]) if second else numbered[2]
        return f"backbone.layers.{layers + layer}.{part}"
    if numbered:
        return f"model.layers.{layers + int(numbered[1])}.{numbered[2]}"
    if around := _AROUND.match(name):
        return f"model.layers.{layers}.{_JOINED[around[1]]}.{around[2]}"
    return name


def draft_part(part: str) -> str | None:
    """What llama.cpp calls `part`, behind "layers.N.", of an MTP layer; None of what any decoder layer has."""
    if part in _STACKS:
        return _STACKS[part]
    module, _, kind = part.rpartition(".")
    return f"nextn.{_HELD[module]}.{kind}" if module in _HELD else None


def block_of(gguf_name: str) -> int:
    """N of `blk.N.x`; -1 of what is outside of blocks."""
    return int(gguf_name.split(".")[1]) if gguf_name.startswith("blk.") else -1


def blocks_behind(gguf_names: Iterable[str], layers: int) -> int:
    """How many blocks there are behind the decoder's: none of HRM-Text's, whose layers run several times each."""
    return max(0, max((block_of(name) for name in gguf_names), default=-1) + 1 - layers)
