"""Which config.json fields hold the number of experts, of their groups, or of MTP layers; and new values for them."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

Key = tuple[str, ...]
"""Path of a field: ("num_experts",), or ("text_config", "num_experts")."""

COUNT = re.compile(r"(num|n|moe)_((local|routed|moe)_)?(num_)?experts")
"""Names of the number of routed experts; a config may have several (num_experts beside num_local_experts)."""

GROUPS = ("n_group", "num_expert_group")
CHOSEN_GROUPS = ("topk_group",)
TOP_K = re.compile(r"num_experts_per_tok(en)?|experts_per_tok(en)?|moe_topk|moe_k|moe_top_k|top_k_experts")
MTP = re.compile(
    r"num_nextn_predict_layers|num_mtp_modules|mtp_num_hidden_layers|num_mtp_layers|use_mtp|mtp_num_layers"
)
"""How many MTP layers there are, or whether; zero or false where there are none."""

QUANTIZATION = ("quantization_config", "compression_config")


def count_keys(config: Mapping[str, Any], experts: int, parsed: Any) -> tuple[Key, ...]:
    """Every field that holds the number of experts: an integer, or one for each layer. Where config.json leaves it at
    its default, the field as the config class calls it.

    parsed: config.json as an object of transformers' class.
    """
    if keys := _holding(config, experts):
        return keys
    text = parsed.get_text_config()
    above: Key = () if text is parsed else (next(k for k, v in vars(parsed).items() if v is text),)
    return tuple((*above, *key) for key in _holding(text.to_dict(), experts) if len(key) == 1)


def _holding(config: Mapping[str, Any], experts: int) -> tuple[Key, ...]:
    def holds(value: Any) -> bool:
        return value == experts or (isinstance(value, list) and experts in value and all(map(_is_count, value)))

    return tuple(key for key, value in _fields(config) if COUNT.fullmatch(key[-1]) and holds(value))


def largest(config: Mapping[str, Any], names: "re.Pattern[str] | tuple[str, ...]") -> int:
    """The largest integer among the fields of these names, in the whole config; 0 where there is none."""

    def named(name: str) -> bool:
        return name in names if isinstance(names, tuple) else bool(names.fullmatch(name))

    found = [
        v for key, value in _fields(config) if named(key[-1]) for v in (value if isinstance(value, list) else [value])
    ]
    return max((v for v in found if _is_count(v)), default=0)


def with_counts(config: Mapping[str, Any], keys: tuple[Key, ...], kept: Mapping[int, int]) -> dict[str, Any]:
    """A copy that says how many experts are left; a list gets every layer's own number (kept: by layer)."""
    changed = deepcopy(dict(config))
    for key in keys:
        holder = _holder(changed, key)
        value = holder.get(key[-1])
        if isinstance(value, list):
            holder[key[-1]] = [kept.get(layer, number) for layer, number in enumerate(value)]
        else:
            holder[key[-1]] = max(kept.values())
    return changed


def mtp_layers(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """(field, number) of the MTP layers that a config names; None where it names none, or is not asked how many."""
    for key, value in _fields(config):
        if MTP.fullmatch(key[-1]) and _is_count(value) and value:
            return key[-1], value
    return None


def draft_layers(config: Mapping[str, Any]) -> int:
    """How many MTP layers a checkpoint of this config may hold behind its decoder layers."""
    stated = [value for key, value in _fields(config) if MTP.fullmatch(key[-1]) and isinstance(value, int)]
    return max((int(value) for value in stated), default=0)


def without_mtp(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that says that there are no MTP layers."""
    changed = deepcopy(dict(config))
    for key, value in list(_fields(changed)):
        if MTP.fullmatch(key[-1]) and isinstance(value, (bool, int)):
            _holder(changed, key)[key[-1]] = type(value)(0)
    return changed


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy for weights that were dequantized to BF16."""
    changed = deepcopy(dict(config))
    for holder in [changed, *(value for value in changed.values() if isinstance(value, dict))]:
        for name in QUANTIZATION:
            holder.pop(name, None)
        for name in ("dtype", "torch_dtype"):
            if name in holder:
                holder[name] = "bfloat16"
    return changed


def _fields(config: Mapping[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in config.items():
        if name in QUANTIZATION or not isinstance(name, str):  # a config class may number its layers
            continue
        yield (*above, name), value
        if isinstance(value, Mapping):
            yield from _fields(value, (*above, name))


def _holder(config: dict[str, Any], key: Key) -> dict[str, Any]:
    for name in key[:-1]:
        config = config.setdefault(name, {})
    return config


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
