"""Gemma 4: heads of another size and number in layers with full attention, and further inputs for each layer."""

from typing import Any

from gguf import GGUFWriter

from exporters.ggml.architectures.entry import Entry
from exporters.ggml.architectures.rotary import Config, head_size, rope_of

_WINDOWED, _FULL = "sliding_attention", "full_attention"
_OF_FULL = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
"""What older configs call a field of layers with full attention, which newer ones state layer by layer."""


def _of_full(config: Config, field: str) -> Any:
    """None where all layers are alike."""
    own = {int(layer): fields for layer, fields in (config.get("per_layer_config") or {}).items()}
    full = [layer for layer, kind in enumerate(config["layer_types"]) if kind == _FULL]
    stated = (own[layer][field] for layer in full if field in own.get(layer, {}))
    return next(stated, config.get(_OF_FULL[field]))


def _stated(config: Config) -> Config:
    """Heads of full attention, and what differs from layer to layer as a list."""
    layers, heads = config["num_hidden_layers"], _of_full(config, "num_key_value_heads")
    found: dict[str, Any] = {"head_dim": _of_full(config, "head_dim") or config["head_dim"]}
    if heads is not None:
        windowed = config["num_key_value_heads"]
        found["num_key_value_heads"] = [windowed if kind == _WINDOWED else heads for kind in config["layer_types"]]
    if config.get("use_double_wide_mlp"):
        width, own = config["intermediate_size"], layers - (config.get("num_kv_shared_layers") or 0)
        found["intermediate_size"] = [width if layer < own else 2 * width for layer in range(layers)]
    return found


def _keys(writer: GGUFWriter, config: Config) -> None:
    windowed = head_size(config)
    writer.add_final_logit_softcapping(config.get("final_logit_softcapping") or 0.0)  # without it, llama.cpp takes 30
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern([kind == _WINDOWED for kind in config["layer_types"]])
    writer.add_shared_kv_layers(config.get("num_kv_shared_layers") or 0)
    writer.add_embedding_length_per_layer_input(config.get("hidden_size_per_layer_input") or 0)
    writer.add_key_length_swa(windowed)
    writer.add_value_length_swa(windowed)
    writer.add_rope_dimension_count(_stated(config)["head_dim"])
    share = (config.get("rope_parameters") or {}).get(_WINDOWED, rope_of(config)).get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count_swa(int(windowed * share))
    if config.get("moe_intermediate_size") is not None:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


GEMMA_4 = Entry(
    (),
    _keys,
    _stated,
    rope_factors=True,
    begins=lambda config: True,
)
