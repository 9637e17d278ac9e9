"""config.json as transformers reads it: the decoder's part, with defaults filled in."""

from collections.abc import Mapping
from typing import Any

from sixfold.errors import SixfoldError
from sixfold.model.meta_model import transformers_config
from sixfold.model.wrappers import WRAPPERS

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where a composite (multimodal) config keeps the decoder's."""

_SAME_FIELDS_AS = {
    "mimo": "qwen2",
    "minimax_m3": "minimax_m3_vl_text",
    "minimax_text_01": "minimax",
    "minimax_m1": "minimax",
}
"""Types that transformers lacks -> one that it has, whose attention is the same under the same field names: MiMo-7B is
Qwen2 with multi-token prediction; MiniMax-M3 the decoder of minimax_m3_vl; Text-01 and M1 are as first published."""

_MUST_AGREE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "kv_lora_rank")


def decoder_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of config.json that describes the decoder, unchanged, with its model_type."""
    fields = dict(config)
    fields.pop("quantization_config", None)
    for key in _NESTED:
        inner = fields.get(key)
        if isinstance(inner, Mapping) and ("num_hidden_layers" in inner or any(k in inner for k in _NESTED)):
            return decoder_fields({"model_type": _decoder_type(fields), **inner})
    return fields


def text_config(config: Mapping[str, Any]) -> Any:
    """transformers' config object of the decoder.

    Raises SixfoldError where transformers does not know the model, or reads other sizes than config.json states.
    """
    fields = decoder_fields(config)
    model_type = _known_type(fields)
    try:
        parsed = transformers_config({**_with_layer_types(fields), "model_type": model_type})
    except Exception as error:  # config classes raise their own validation errors for impossible values
        reason = " ".join(str(error).split())[:200]
        raise SixfoldError(
            f"the config describes no {model_type} model: {reason}", "compare it with the original model's config.json"
        ) from error
    parsed = parsed.get_text_config()
    for name in _MUST_AGREE:
        stated, read = fields.get(name), field_of(parsed, name)
        if stated is not None and read is not None and stated != read:
            raise SixfoldError(
                f"{name} is {stated} in the config and {read} as transformers reads {model_type}",
                "the cache of this model cannot be derived; please report it",
            )
    return parsed


def field_of(config: Any, name: str) -> Any:
    """A field of transformers' config object; None where it has none, or several that differ between layers."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers refuses to tell for all layers what differs between them
        return None


def _known_type(fields: Mapping[str, Any]) -> str:
    """The type that transformers has for these fields: the stated one, or the one that owns the stated architecture."""
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    stated = fields.get("model_type")
    if not isinstance(stated, str) or not stated:
        raise SixfoldError("the config has no model_type", "take it from the original model's config.json")
    if stated in _SAME_FIELDS_AS:
        return _SAME_FIELDS_AS[stated]
    if stated in CONFIG_MAPPING:
        # A composite type whose fields are not nested: its class would read none of them and answer with its defaults.
        return _decoder_type(fields) if "num_hidden_layers" in fields else stated
    if stated in WRAPPERS and WRAPPERS[stated].kind:
        return WRAPPERS[stated].kind
    by_architecture = {
        name: model_type
        for model_type, names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        for name in ((names,) if isinstance(names, str) else names)
        if model_type in CONFIG_MAPPING
    }
    for architecture in fields.get("architectures") or ():
        if architecture in by_architecture:
            return by_architecture[architecture]
    raise SixfoldError(
        f"transformers {transformers.__version__} does not know the model type {stated!r}, and which attention it has"
        " is not guessed",
        "use a newer transformers that knows it",
    )


def _decoder_type(fields: Mapping[str, Any]) -> str:
    """The decoder's type of a composite type; a decoder's own type is returned as it is."""
    from transformers import CONFIG_MAPPING

    stated = str(fields.get("model_type"))
    if stated not in CONFIG_MAPPING:
        return stated
    known = CONFIG_MAPPING[stated]
    if not getattr(known, "sub_configs", None):
        return stated
    return str(known().get_text_config().model_type)


def _with_layer_types(fields: dict[str, Any]) -> dict[str, Any]:
    """Two lists that some families state and transformers does not read: MiMo-V2's layers with a window, and MiniMax's
    with lightning attention (0)."""
    if "layer_types" in fields:
        return fields
    if pattern := fields.get("hybrid_layer_pattern"):
        kinds = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
    elif (pattern := fields.get("attn_type_list")) and 0 in pattern:
        kinds = ["full_attention" if full else "linear_attention" for full in pattern]
    else:
        return fields
    return {**fields, "layer_types": kinds}
