"""transformers' own model of a checkpoint, built without memory: of the class that its config and tensors speak of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError
from sixfold.model.experts_interface import join_interface
from sixfold.model.wrappers import WRAPPERS, place_around, register_wrappers

_USUAL = ("hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers")
_CONTENT_OF_OUTPUTS = ("return_dict", "use_cache")
"""Beside `output_*`: fields that say what a forward returns, and nothing of what it computes. Trainers leave them in
config.json."""


def meta_model(checkpoint: Checkpoint, *, dtype: torch.dtype | None = None, attention: str | None = None) -> nn.Module:
    """transformers' language model for this config, on the meta device: with its towers for pictures and sound where
    the checkpoint has them.

    dtype: of the parameters that the model does not define otherwise. attention: transformers' name of the
    implementation ("eager"), None for the model's own choice.
    Raises SixfoldError where the installed transformers does not know the model type.
    """
    import transformers

    model_type, where = checkpoint.config.get("model_type"), checkpoint.config_location
    if not model_type:
        raise SixfoldError(f"{where} has no model_type", "take it from the original model's config.json")
    try:
        parsed = transformers_config(checkpoint.config)
        chosen = {} if dtype is None else {"dtype": dtype}
        auto = auto_class(checkpoint, parsed)
        if type(parsed) in auto._model_mapping:
            join_interface(auto._model_mapping[type(parsed)])
        with torch.device("meta"):
            model: nn.Module = auto.from_config(
                parsed, attn_implementation=attention, trust_remote_code=False, **chosen
            )
            place_around(model, checkpoint.config, checkpoint.tensors)
            return model
    except (ValueError, KeyError) as error:
        raise SixfoldError(
            f"transformers {transformers.__version__} has no causal language model for model_type {model_type!r}"
            f" in {where} ({_reason(error)})",
            "use a checkpoint of a text model that it knows, or a newer transformers",
        ) from error
    except Exception as error:  # config classes raise their own validation errors for impossible values
        raise SixfoldError(
            f"{where} describes no {model_type} model: {_reason(error)}",
            "compare it with the original model's config.json",
        ) from error


def auto_class(checkpoint: Checkpoint, parsed: Any) -> Any:
    """AutoModelForCausalLM, or AutoModelForImageTextToText for a config that only it knows, and for a checkpoint of its
    class where both know the config; of models that hear, which neither knows, the class that does.

    Some families have both, for a text model alone and for one that sees. config.json names the class; where it does
    not, towers among the tensors tell.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoModelForSeq2SeqLM,
    )

    causal, seeing = MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    known = type(parsed) in seeing or type(parsed) in causal
    if not known and type(getattr(parsed, "text_config", None)) in causal:  # a decoder that attends to no encoder
        if type(parsed) in MODEL_FOR_MULTIMODAL_LM_MAPPING:
            return AutoModelForMultimodalLM
        if type(parsed) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
            return AutoModelForSeq2SeqLM
    if type(parsed) not in seeing:
        return AutoModelForCausalLM
    if type(parsed) not in causal:
        return AutoModelForImageTextToText
    named = {str(name) for name in checkpoint.config.get("architectures") or ()}
    if named & {seeing[type(parsed)].__name__, causal[type(parsed)].__name__}:
        return AutoModelForImageTextToText if seeing[type(parsed)].__name__ in named else AutoModelForCausalLM
    text = parsed.get_text_config()
    senses = [key.removesuffix("_config") for key in type(parsed).sub_configs if getattr(parsed, key, None) is not text]
    sees = any(sense in name for sense in (*senses, "visual") for name in checkpoint.tensors)
    return AutoModelForImageTextToText if sees else AutoModelForCausalLM


def transformers_config(config: Mapping[str, Any]) -> Any:
    """config.json as an object of transformers' class for its model_type (KeyError where there is none), without what
    says how the weights are stored (they arrive dequantized) and what a forward returns beside its logits."""
    from transformers import CONFIG_MAPPING

    for name, part in config.items():
        if isinstance(part, Mapping) and not isinstance(part.get("model_type", ""), str | None):
            raise ValueError(f"the model_type of its {name} is no name")
    known = known_type(config)
    return CONFIG_MAPPING[known].from_dict({**_plain(config), "model_type": known})


def known_type(config: Mapping[str, Any]) -> str:
    """transformers' name of the model type: config.json's own, or that of the architecture that it names, where a
    publisher calls another's by a name of its own (Kimi-K2: "kimi_k2", of DeepseekV3ForCausalLM)."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    register_wrappers()
    model_type = str(config["model_type"])
    if model_type in CONFIG_MAPPING:
        return model_type
    if model_type in WRAPPERS:
        return WRAPPERS[model_type].kind
    named = config.get("architectures") or ()
    return next((known for known, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if name in named), model_type)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with every value that transformers would fill in, and every field that it would drop."""
    known = {key: value for key, value in _plain(config).items() if key != "auto_map"}
    filled = {**transformers_config(known).to_dict(), "model_type": config["model_type"]}
    return {**{key: value for key, value in known.items() if key not in filled}, **filled}


def usual_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes under the names that most configs have, of a model type whose class calls them otherwise (n_layer)."""
    from transformers import CONFIG_MAPPING

    kind = known_type(config)
    named = CONFIG_MAPPING[kind].attribute_map if kind in CONFIG_MAPPING else {}
    return {usual: config[own] for usual, own in named.items() if usual in _USUAL and own in config}


def _plain(config: Any) -> Any:
    """A fresh copy, with the numbers that JSON has no word for ({"__float__": "Infinity"}) as numbers."""
    if isinstance(config, Mapping):
        if set(config) == {"__float__"}:
            return float(config["__float__"])
        return {key: _plain(value) for key, value in config.items() if not _is_aside(key, value)}
    return [_plain(value) for value in config] if isinstance(config, list) else config


def _is_aside(key: Any, value: Any) -> bool:
    returned = str(key).startswith("output_") or key in _CONTENT_OF_OUTPUTS
    return key == "quantization_config" or (returned and isinstance(value, bool))


def _reason(error: Exception) -> str:
    """The first line of an error; with the next one where it only announces it, as validation errors do."""
    first, _, rest = str(error).strip().partition("\n")
    text = f"{first} {rest.partition(chr(10))[0].strip()}" if first.endswith(":") else first
    return text.strip().rstrip(".") or type(error).__name__
