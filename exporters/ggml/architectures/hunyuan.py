"""Hunyuan's rotary positions, which a number called alpha stretches (NTK-aware scaling), and its dense models."""

from collections.abc import Mapping

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import Entry, without_scaling
from exporters.ggml.architectures.rotary import Config, head_size, rope_of

_CONTEXT = 2**18
"""Positions that llama.cpp's converter takes stretched ones to be good for, whatever config.json says."""


def _alpha(config: Config) -> float | None:
    """None where positions are not stretched."""
    rope = rope_of(config)
    return rope.get("alpha") or None if rope["rope_type"] == "dynamic" else None


def stretched(config: Config) -> Config:
    """The base and the number of positions that come of alpha, as transformers computes them."""
    alpha, rope, size = _alpha(config), rope_of(config), head_size(config)
    if alpha is None:
        return {}
    base = rope["rope_theta"] * alpha ** (size / (size - 2))
    return {"rope_parameters": {"rope_theta": base}, "max_position_embeddings": _CONTEXT}


def stretched_keys(writer: GGUFWriter, config: Config) -> None:
    if _alpha(config) is not None:
        without_scaling(writer, config)
        writer.add_rope_scaling_factor(1.0)
        writer.add_rope_scaling_orig_ctx_len(_CONTEXT)


def _axial(config: Config) -> Config:
    """Where positions have several axes, llama.cpp computes the base itself."""
    return {} if _alpha(config) is None else {"rope_parameters": {**rope_of(config), "rope_type": "default"}}


def _axial_keys(writer: GGUFWriter, config: Config) -> None:
    alpha = _alpha(config)
    if alpha is not None:
        without_scaling(writer, config)
        writer.add_rope_scaling_alpha(alpha)
        writer.add_rope_scaling_factor(rope_of(config).get("factor") or 1.0)
        writer.add_rope_scaling_orig_ctx_len(config["max_position_embeddings"])


HUNYUAN: Mapping[str, Entry] = {
    "hunyuan-dense": Entry((), stretched_keys, stretched),
    "hunyuan_vl": Entry((), _axial_keys, _axial),
}
"""By llama.cpp's architecture name."""
