"""What each decoder layer of a model caches, derived from its config and checked against transformers' own model."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cards.budget.caches.built_model import check_against_model
from cards.budget.caches.layer_caches import Compressed, IndexKeys, KeysValues, Latent, Layer
from cards.budget.caches.recurrent_states import recurrent_state
from cards.budget.text_config import decoder_fields, text_config
from sixfold.errors import SixfoldError

_LATENT = {"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_linear", "longcat_flash", "mistral4", "youtu"}
"""Types whose latent is cached by engines as it is. MiniCPM3 has one too, but vLLM and llama.cpp cache its
expansion."""

_SPARSE_LATENT = {"deepseek_v32", "glm_moe_dsa"}
"""Types with DeepSeek's indexer beside the latent."""

_WITH_ATTENTION = {"falcon_h1", "zamba2"}
"""Types whose "hybrid" layers have both a state and an attention with a cache of its own."""


@dataclass(frozen=True)
class Attention:
    """model_type: transformers' of the decoder. heads: of a query. layers: what each keeps, in order."""

    model_type: str
    heads: int
    layers: tuple[Layer, ...]


def attention(config: Mapping[str, Any]) -> Attention:
    """What each layer of the decoder keeps.

    config: of config.json; of a composite model's the decoder's part is used. Multi-token prediction layers are not
    among them: engines run those only when asked for speculative decoding. Raises SixfoldError, naming it, where the
    model type or a kind of attention is not known, or where what the config says does not match the model that
    transformers makes of it.
    """
    fields = decoder_fields(config)
    try:
        return _attention(json.dumps(fields, sort_keys=True, default=str))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SixfoldError(
            f"the config of model type {fields.get('model_type')!r} lacks what its cache is derived from"
            f" ({' '.join(str(error).split())})",
            "compare it with the original model's config.json",
        ) from error


def notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What else a reader of the budget has to know, one sentence each."""
    fields = decoder_fields(config)
    found = []
    names = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers")
    counts = [fields[name] for name in names if isinstance(fields.get(name), int)]
    if any(counts):
        found.append(
            f"The config has {max(counts)} multi-token prediction layer{'s' * (max(counts) > 1)}; their cache is not"
            " counted, as engines run them only when asked for speculative decoding"
        )
    if "index_topk" in fields and "kv_lora_rank" in fields:
        found.append(
            "An FP8 cache beside an indexer is counted as Hopper's kernels have it, with scales and BF16 rotary parts;"
            " Blackwell's do without (576 bytes a layer in place of 656), and there vLLM (GLM-5) and SGLang take FP8 by"
            " default"
        )
    if fields is not config and any(key in config for key in ("vision_config", "audio_config")):
        found.append("Encoders of images or sound keep no cache; their work space is not counted")
    return tuple(found)


@cache
def _attention(text: str) -> Attention:
    fields = json.loads(text)
    if "block_configs" in fields:
        return Attention("nemotron-nas", fields["num_attention_heads"], _searched_blocks(fields))
    for index, kind in enumerate(fields.get("layer_types") or ()):
        _known(str(fields.get("model_type")), index, kind)
    config = text_config(fields)
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "cross_attention_layers", None):
        raise SixfoldError(
            f"model type {config.model_type!r} has cross attention, whose cache is not known",
            "budgets are for models of self-attention alone",
        )
    found = tuple(_layer(config, fields, index, kind) for index, kind in enumerate(_kinds(config)))
    shared = getattr(config, "num_kv_shared_layers", 0) or 0
    owners = found[: len(found) - shared]
    check_against_model(config, found, owners)
    heads = getattr(_at(config, 0), "num_attention_heads", 0) or 0
    return Attention(config.model_type, heads, owners + ((),) * shared)


def _kinds(config: Any) -> Sequence[str]:
    """transformers' name of each layer's kind; where the config has no list, as its own cache infers it."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return list(kinds)
    if getattr(config, "sliding_window", None) is not None:
        return ["sliding_attention"] * config.num_hidden_layers
    if getattr(config, "attention_chunk_size", None) is not None:
        return ["chunked_attention"] * config.num_hidden_layers
    return ["full_attention"] * config.num_hidden_layers


def _layer(config: Any, fields: Mapping[str, Any], index: int, kind: str) -> Layer:
    return _known(config.model_type, index, kind)(config, fields, index)


def _known(model_type: str, index: int, kind: str) -> "_Reader":
    read = _KINDS.get(kind)
    if read is None:
        raise SixfoldError(
            f"layer {index} of model type {model_type!r} has the attention {kind!r}, whose cache is not known and not"
            " guessed",
            "leave out the budget, or add the kind to cards/budget/caches/attention.py",
        )
    return read


def _at(config: Any, index: int) -> Any:
    """The config of one layer, where transformers has them apart (Gemma 4, Step-3.7)."""
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def _full(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    if getattr(config, "kv_lora_rank", None) is None:
        return (_keys_values(_at(config, index)),)
    if config.model_type not in _LATENT:
        raise SixfoldError(
            f"model type {config.model_type!r} has a latent (kv_lora_rank), and what engines cache of it is not known",
            "leave out the budget, or add the type to cards/budget/caches/attention.py",
        )
    return (Latent(config.kv_lora_rank, config.qk_rope_head_dim),)


def _sliding(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    found = _keys_values(_at(config, index))
    # MiMo-V2 states heads and widths of its windowed layers apart; transformers has them as constants.
    return (
        KeysValues(
            fields.get("swa_num_key_value_heads") or found.heads,
            fields.get("swa_head_dim") or found.key,
            fields.get("swa_v_head_dim") or found.value,
            config.sliding_window,
        ),
    )


def _chunked(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    found = _keys_values(_at(config, index))
    return (KeysValues(found.heads, found.key, found.value, config.attention_chunk_size, chunked=True),)


def _keys_values(config: Any) -> KeysValues:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    key = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KeysValues(heads, key, getattr(config, "v_head_dim", None) or key)


def _sparse_latent(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    if config.model_type not in _SPARSE_LATENT:
        raise SixfoldError(
            f"what engines cache for the sparse attention of model type {config.model_type!r} is not known",
            "leave out the budget, or add the type to cards/budget/caches/attention.py",
        )
    latent = Latent(config.kv_lora_rank, config.qk_rope_head_dim, sparse=True)
    indexers = getattr(config, "indexer_types", None)
    if indexers is not None and indexers[index] == "shared":  # takes the choice of an earlier layer
        return (latent,)
    return (latent, IndexKeys(config.index_head_dim, of_latent=True))


def _sparse_blocks(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    return (_keys_values(config), IndexKeys(config.index_head_dim, of_latent=False))


def _compressed(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    kind = config.layer_types[index]
    indexed = kind == "compressed_sparse_attention"
    ratio = config.compress_rates[kind]
    return (Compressed(config.head_dim, config.sliding_window, ratio, config.index_head_dim if indexed else 0),)


def _sliding_or_raw(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    if config.model_type == "deepseek_v4":
        return (Compressed(config.head_dim, config.sliding_window, 0, 0),)
    return _sliding(config, fields, index)


def _linear(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    return (recurrent_state(config),)


def _hybrid(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    if config.model_type not in _WITH_ATTENTION:
        raise SixfoldError(
            f"what the hybrid layers of model type {config.model_type!r} keep is not known, and not guessed",
            "leave out the budget, or add the type to cards/budget/caches/attention.py",
        )
    return (_keys_values(config), recurrent_state(config))


def _none(config: Any, fields: Mapping[str, Any], index: int) -> Layer:
    return ()


_Reader = Callable[[Any, Mapping[str, Any], int], Layer]
"""transformers' config, the original fields, the layer's number -> what the layer keeps."""

_KINDS: dict[str, _Reader] = {
    "full_attention": _full,
    "sliding_attention": _sliding_or_raw,
    "chunked_attention": _chunked,
    "linear_attention": _linear,
    "conv": _linear,
    "mamba": _linear,
    "attention": _full,
    "hybrid": _hybrid,
    "deepseek_sparse_attention": _sparse_latent,
    "minimax_m3_sparse": _sparse_blocks,
    "compressed_sparse_attention": _compressed,
    "heavily_compressed_attention": _compressed,
    "moe": _none,
    "mlp": _none,
}
"""transformers' names of layer kinds (ALLOWED_ATTN_LAYER_TYPES, and older names) that are known here. Nemotron-H also
lists its MLPs."""


def _searched_blocks(fields: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Nemotron-NAS (DeciLM), which transformers lacks: a layer's attention may be left out or have its own groups."""
    width = fields["hidden_size"] // fields["num_attention_heads"]
    found: list[Layer] = []
    for index, block in enumerate(fields["block_configs"]):
        attention = block["attention"]
        unknown = sorted(k for k, v in attention.items() if v and k not in {"n_heads_in_group", "no_op"})
        if unknown:
            raise SixfoldError(
                f"the attention of layer {index} has {unknown[0]} {attention[unknown[0]]!r}, whose cache is not known"
                " and not guessed",
                "leave out the budget",
            )
        if attention["no_op"]:
            found.append(())
        else:
            found.append((KeysValues(fields["num_attention_heads"] // attention["n_heads_in_group"], width, width),))
    return tuple(found)
