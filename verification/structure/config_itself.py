"""What config.json contradicts by itself, and what no value of it can be."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from sixfold.model.meta_model import transformers_config
from verification.finding import Finding
from verification.reading.folder import CONFIG
from verification.reading.subject import Subject
from verification.structure.json_in_sentences import shown

_REMEDY = "take the value from the source's config.json"
_EPSILON = re.compile(r"(^|_)(eps|epsilon)$")
_BY_LAYER = ("layer_types", "attn_type_list", "mlp_layer_types")
"""Lists with an entry for each layer."""


def check_numbers(subject: Subject) -> Iterator[Finding]:
    """Every number is one, and what keeps a norm from dividing by zero is more than zero."""
    for path, value in _numbers(subject.folder.config):
        if math.isnan(value) or (math.isinf(value) and "limit" not in path):  # Mamba's time steps have none
            yield _finding(path, f"it is {value}", "JSON has no such number: engines stop, or answer NaN")
        elif _EPSILON.search(path.rpartition(".")[2]) and not 0 < value < 1:
            yield _finding(path, f"it is {shown(value)}", "norms divide by zero, or make everything alike")


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def check_lengths(subject: Subject) -> Iterator[Finding]:
    for prefix, config in _parts(subject.folder.config):
        layers = config.get("num_hidden_layers")
        for key in _BY_LAYER:
            held = config.get(key)
            if isinstance(held, list) and isinstance(layers, int) and len(held) < layers:
                what = f"it has {len(held)} entries for {layers} layers"
                yield _finding(f"{prefix}{key}", what, "loading stops, or the last layers are of another kind")


def check_rotary(subject: Subject) -> Iterator[Finding]:
    """Rotary embeddings are stated in up to three places, of which each engine reads one."""
    for prefix, config in _parts(subject.folder.config):
        rope = config.get("rope_parameters")
        rope = rope if isinstance(rope, Mapping) else {}
        for key in ("rope_theta", "partial_rotary_factor"):
            one, other = config.get(key), rope.get(key)
            if _is_number(one) and _is_number(other) and one != other:
                what = f"it is {shown(one)}, and {shown(other)} in rope_parameters"
                yield _finding(f"{prefix}{key}", what, "engines that read one of them turn positions otherwise")
        share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
        head, turned = config.get("head_dim"), config.get("rotary_dim")
        if _is_number(share) and isinstance(head, int) and isinstance(turned, int) and int(head * share) != turned:
            what = f"it is {turned}, and partial_rotary_factor {shown(share)} of heads of {head} is {int(head * share)}"
            yield _finding(f"{prefix}rotary_dim", what, "engines that read one of them turn positions otherwise")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_second_quantization(subject: Subject) -> Iterator[Finding]:
    one, other = (subject.folder.config.get(key) for key in ("quantization_config", "compression_config"))
    if isinstance(other, Mapping) and isinstance(one, Mapping) and other != one:
        what = "it declares another quantization than quantization_config"
        yield _finding("compression_config", what, "older readers take this one", "remove it")


def refused_key(config: Mapping[str, Any]) -> str:
    """Which field makes transformers refuse a config, as far as its message says; "" otherwise."""
    try:
        transformers_config(dict(config))
    except Exception as error:  # whatever its classes raise
        return next((word for word in re.findall(r"\w+", str(error)) if word in config), "")
    return ""


def _parts(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "", config
    text = config.get("text_config")
    if isinstance(text, Mapping):
        yield "text_config.", text


def _finding(path: str, what: str, consequence: str, remedy: str = _REMEDY) -> Finding:
    return Finding("config.key", f"{CONFIG}: {path}", what, consequence, remedy)
