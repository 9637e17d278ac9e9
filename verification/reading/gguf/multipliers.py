"""What llama.cpp's converter multiplies weights by, where a model multiplies activations.

Stated from transformers' forward: a factor of what a Linear reads or of what it makes is one of its weight.
"""

from collections.abc import Mapping
from typing import Any

import torch

Config = Mapping[str, Any]


def multipliers_of(arch: str, config: Config) -> Mapping[str, torch.Tensor]:
    """By what GGUF calls a tensor in its block: float64, [1] or one for each row. config: of the source, {} without."""
    return _falcon_h1(config) if arch == "falcon-h1" and config else {}


def _falcon_h1(config: Config) -> dict[str, torch.Tensor]:
    inner, state = config["mamba_d_ssm"], config["mamba_n_groups"] * config["mamba_d_state"]
    of_rows = torch.tensor(config["ssm_multipliers"], dtype=torch.float64)
    of_rows = of_rows.repeat_interleave(torch.tensor([inner, inner, state, state, config["mamba_n_heads"]]))
    attention = config["attention_in_multiplier"]
    single = {
        "token_embd": config["embedding_multiplier"],
        "output": config["lm_head_multiplier"],
        "attn_q": attention,
        "attn_k": attention * config["key_multiplier"],
        "attn_v": attention,
        "attn_output": config["attention_out_multiplier"],
        "ffn_gate": config["mlp_multipliers"][0],
        "ffn_down": config["mlp_multipliers"][1],
        "ssm_out": config["ssm_out_multiplier"],
    }
    each = {part: torch.tensor([factor], dtype=torch.float64) for part, factor in single.items()}
    return each | {"ssm_in": of_rows * config["ssm_in_multiplier"]}
