"""Where two config.json say different things of one model: all is compared, but for what is known to be harmless.

Libraries write a config again as their class has it: defaults are filled in, what the class does not know is dropped,
and rotary parameters move from one place to another. A field that is only on one side is no difference where the class
gives the other side the same value.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from verification.structure.json_in_sentences import shown

HARMLESS = frozenset(
    """
    quantization_config compression_config dtype torch_dtype transformers_version _name_or_path _commit_hash use_cache
    output_attentions output_hidden_states output_router_logits router_aux_loss_coef router_jitter_noise return_dict
    problem_type id2label label2id torchscript chunk_size_feed_forward initializer_range initializer_factor
    attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout pruned_heads use_bfloat16 tf_legacy_loss
    _attn_implementation attn_implementation _experts_implementation experts_implementation unsloth_fixed
    unsloth_version model_name
    """.split()
)
"""What no engine computes by when it generates text, or what states how weights are stored, which has checks of its
own."""

ROTARY = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rope_local_base_freq")
_GONE = object()
_Config = Mapping[str, Any]
Difference = tuple[str, str, str]
"""(path of the field, what differs, "gone", "added" or "changed")."""


def differences(
    source: _Config, held: _Config, before: _Config, after: _Config, path: str = ""
) -> Iterator[Difference]:
    """before, after: both with the defaults of transformers' class, {} where it makes no config of them."""
    for key in dict.fromkeys((*source, *held)):
        if key in HARMLESS:
            continue
        one, other = source.get(key, _GONE), held.get(key, _GONE)
        if _same(one, other):
            continue
        inner = isinstance(one, Mapping), isinstance(other, Mapping)
        if all(inner):
            parts = (x if isinstance(x, Mapping) else {} for x in (before.get(key), after.get(key)))
            first, second = parts
            yield from differences(one, other, first, second, f"{path}{key}.")
        elif one is _GONE:
            if not _meant(key, other, before):
                left = f"leaves it at {shown(before[key])}" if before.get(key) is not None else "has no such key"
                yield f"{path}{key}", f"it is {shown(other)}, and the source {left}", "added"
        elif other is _GONE:
            if not _meant(key, one, after):
                yield f"{path}{key}", f"the source has {shown(one)}, the artifact has no such key", "gone"
        else:
            yield f"{path}{key}", f"it is {shown(other)}, in the source {shown(one)}", "changed"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other) or (one in (None, _GONE) and other in (None, _GONE))


def _meant(key: str, value: Any, completed: _Config) -> bool:
    """Whether a config that does not state `key` means `value` by it all the same."""
    if key in ROTARY:
        return _is_rotary(key, value, completed)
    if isinstance(value, Mapping) and isinstance(completed.get(key), Mapping):
        return all(_meant(name, inner, completed[key]) for name, inner in value.items() if name not in HARMLESS)
    return key in completed and _same(completed[key], value)


def _is_rotary(key: str, value: Any, completed: _Config) -> bool:
    """Rotary parameters stand in one of two places, under one of two names."""
    rope = completed.get("rope_parameters")
    rope = rope if isinstance(rope, Mapping) else {}
    known = {**{name: completed[name] for name in ROTARY if name in completed}, **rope}
    if not isinstance(value, Mapping):
        return (value is None and known.get("rope_type", "default") == "default") or _same(known.get(key, _GONE), value)
    named = {"rope_type" if name == "type" else name: one for name, one in value.items()}
    return all(_same(known.get(name, _GONE), one) for name, one in named.items())
