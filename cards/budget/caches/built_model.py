"""Cross-check: cache sizes derived from a config against the projections of the model that transformers builds."""

import copy
import importlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from cards.budget.caches.layer_caches import Compressed, IndexKeys, KeysValues, Latent, Layer, State
from sixfold.errors import SixfoldError

_LATENT = ("kv_a_proj_with_mqa", "kv_a_proj")
_FUSED = ("qkv_proj", "query_key_value", "Wqkv", "c_attn")
_OUTPUT = ("o_proj", "out_proj", "dense", "c_proj")
_INDEX = ("wk", "k_proj")


def check_against_model(config: Any, layers: Sequence[Layer], owners: Sequence[Layer]) -> None:
    """Raises SixfoldError where the projections to keys and values, latents or index keys, or the convolutions, of
    transformers' model are not known or come to other sizes than `layers` say.

    config: transformers' object of the decoder. owners: those of `layers` that do not read another's cache; a model may
    have the projections of the others, or not.
    """
    found = _built(config, layers)
    stated, owned = _stated(layers), _stated(owners)
    for kind in (*stated, *found):
        if found[kind] not in {stated[kind], owned[kind]}:
            raise SixfoldError(
                f"{kind} of model type {config.model_type!r} come to {found[kind]} numbers in transformers' model and"
                f" to {stated[kind]} by its config, so its cache is not known",
                "leave out the budget, and please report it with the config.json",
            )


def _stated(layers: Sequence[Layer]) -> "Counter[str]":
    found: Counter[str] = Counter()
    for cache in (cache for layer in layers for cache in layer):
        match cache:
            case KeysValues():
                found["keys and values"] += cache.numbers
            case Latent():
                found["latents"] += cache.rank + cache.rope
            case IndexKeys():
                found["index keys"] += cache.width
            case Compressed():
                found["compressed vectors"] += cache.width
            case State():
                found["convolutions"] += cache.convolution()
    return found


def _built(config: Any, layers: Sequence[Layer]) -> "Counter[str]":
    found: Counter[str] = Counter()
    for path, module in _decoder(config).named_modules():
        children = dict(module.named_children())
        if "indexer" in path:
            found["index keys"] += _width(children, _INDEX)
        elif "compressor" not in path:
            number = re.search(r"\.(\d+)\.", f".{path}.")
            remembers = number is None or not _only_state(layers, int(number[1]))
            found += _attention(children, remembers)
    return found


def _attention(children: Mapping[str, nn.Module], remembers: bool) -> "Counter[str]":
    """remembers: whether the layer keeps keys and values; a linear attention has such projections too."""
    found: Counter[str] = Counter()
    for child in children.values():
        if isinstance(child, nn.Conv1d):
            found["convolutions"] += child.out_channels * (child.kernel_size[0] - 1)
    if found or not remembers:
        return found
    if latent := _width(children, _LATENT):
        found["latents"] += latent
    elif key := _width(children, ("k_proj",)):
        found["keys and values"] += key + (_width(children, ("v_proj",)) or key)  # values may be the keys (Gemma 4)
    elif fused := _width(children, _FUSED):
        output = next((children[name] for name in _OUTPUT if name in children), None)
        found["keys and values"] += fused - (_inputs(output) if output is not None else 0)
    elif "kv_proj" in children:
        found["compressed vectors"] += _width(children, ("kv_proj",))
    return found


def _decoder(config: Any) -> nn.Module:
    """On the meta device. What no cache depends on need not be known to transformers: an activation's name."""
    import torch
    import transformers
    from transformers.activations import ACT2FN

    config = copy.deepcopy(config)
    if getattr(config, "hidden_act", "silu") not in ACT2FN:
        config.hidden_act = "silu"
    try:
        with torch.device("meta"):
            return _model_class(config)._from_config(config)
    except Exception as error:  # a third party's code: whatever it raises means that there is no such model
        reason = " ".join(str(error).split())[:200]
        raise SixfoldError(
            f"transformers {transformers.__version__} makes no model of type {config.model_type!r} from the config"
            f" ({reason}), so its cache is not known",
            "compare it with the original model's config.json",
        ) from error


def _model_class(config: Any) -> Any:
    """The bare decoder of a config class; some of composite models are in none of transformers' automatic tables."""
    from transformers import MODEL_MAPPING, PreTrainedModel

    if type(config) in MODEL_MAPPING:
        found = MODEL_MAPPING[type(config)]
        return found[0] if isinstance(found, tuple) else found
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    candidates = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, PreTrainedModel)
        and getattr(value, "config_class", None) is type(config)
        and name.endswith("Model")
        and not name.endswith("PreTrainedModel")
    ]
    if not candidates:
        raise LookupError(f"no model class for {type(config).__name__}")
    return candidates[0]


def _only_state(layers: Sequence[Layer], index: int) -> bool:
    return index < len(layers) and bool(layers[index]) and all(isinstance(cache, State) for cache in layers[index])


def _width(children: Mapping[str, nn.Module], names: Sequence[str]) -> int:
    """Numbers that come out of the first of these that there is; 0 where there is none."""
    child = next((children[name] for name in names if name in children), None)
    # Conv1D of GPT-2 keeps its weight transposed.
    return int(getattr(child, "out_features", None) or getattr(child, "nf", None) or 0)


def _inputs(module: nn.Module) -> int:
    return int(getattr(module, "in_features", None) or getattr(module, "nx", None) or 0)
