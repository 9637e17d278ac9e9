"""Rotary positions: what a config says of them, and how a GGUF file states it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gguf import GGUFWriter, RopeScalingType

from sixfold.errors import SixfoldError

Config = Mapping[str, Any]

_BY_FACTORS = ("llama3", "proportional")
_NEVER_TURNS = 1e30
LONG_ROPE = "longrope"


def rope_of(config: Config) -> Mapping[str, Any]:
    """Rotary parameters of full attention: rope_theta, rope_type and what belongs to the type."""
    rope: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    missing = {k: config[k] for k in ("rope_theta", "partial_rotary_factor") if config.get(k) is not None}
    return {**missing, **rope, "rope_type": rope.get("rope_type", rope.get("type", "default"))}


def write_rope(writer: GGUFWriter, rope: Mapping[str, Any], held: Sequence[str] = ()) -> None:
    """held: rotary types that files of this architecture hold as tensors, see `long_rope_factors`."""
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
    elif kind not in ("default", *_BY_FACTORS, *held):
        raise SixfoldError(f"rotary scaling {kind!r} cannot be written into a GGUF file", "leave the gguf recipes out")


def rope_frequency_factors(config: Config) -> torch.Tensor | None:
    """Scalings that llama.cpp takes as a tensor: what each frequency is divided by, float32 [head size / 2]. None where
    the rotary type is another.

    Llama 3's: long wavelengths are divided by `factor`, short ones are left alone, those between are interpolated.
    Gemma 4's "proportional": the first share of a head's channels turns, the others do not. Formulas: transformers'
    modeling_rope_utils.
    """
    rope = rope_of(config)
    if rope["rope_type"] == "proportional":
        half, turning = head_size(config) // 2, int(head_size(config) * rope["partial_rotary_factor"] / 2)
        return torch.tensor([1.0] * turning + [_NEVER_TURNS] * (half - turning))
    if rope["rope_type"] != "llama3":
        return None
    size, base, factor = rotary_size(config), rope.get("rope_theta", 10000.0), rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    frequency = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    wavelength = 2 * math.pi / frequency
    smooth = (context / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(wavelength > context / low, torch.full_like(between, float(factor)), between)
    factors = torch.where(wavelength < context / high, torch.ones_like(between), factors)
    return torch.cat([factors, torch.ones((head_size(config) - size) // 2)])


def long_rope_factors(config: Config) -> dict[str, torch.Tensor]:
    """What LongRoPE divides each frequency by, in contexts beyond the original length and within it: float32 [rotated
    channels / 2]. {} where the rotary type is another."""
    rope = rope_of(config)
    if rope["rope_type"] != LONG_ROPE:
        return {}
    return {f"rope_factors_{kind}.weight": torch.tensor(rope[f"{kind}_factor"]) for kind in ("long", "short")}


def long_rope_attention(config: Config) -> float:
    """What cosines and sines are multiplied by: stated (PhiMoE), or by the formula of transformers'
    modeling_rope_utils."""
    rope = rope_of(config)
    if rope.get("long_mscale"):
        return float(rope["long_mscale"])
    before = config.get("original_max_position_embeddings") or rope["original_max_position_embeddings"]
    times = config["max_position_embeddings"] / before
    return math.sqrt(1 + math.log(times) / math.log(before)) if times > 1 else 1.0


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rotary_size(config: Config, default: float = 1.0) -> int:
    """How many of a head's dimensions are rotated."""
    if config.get("rotary_dim"):
        return int(config["rotary_dim"])
    return int(head_size(config) * rope_of(config).get("partial_rotary_factor", default))
