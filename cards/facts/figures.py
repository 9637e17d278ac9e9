"""How figures are computed from facts and formatted: everything that a card can do to a number.

A card's origin block names these functions, so that whoever has the files can compute every figure again.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from cards.budget.caches.kv_cache import growth, kv_cache
from cards.budget.device_memory import Memory, longest_context, longest_trained, memory
from cards.budget.hardware import hardware_named
from cards.facts.remaking import settings
from sixfold.artifact.manifest import artifact_bytes, is_projector
from sixfold.recipes.budget import Budget
from sixfold.sizes import size

_UNBROKEN = "\N{NO-BREAK SPACE}"
"""Between a figure and its unit where a column would be as narrow as the longer of the two."""


def _weight_bytes(files: Mapping[str, Any]) -> int:
    return sum(record["bytes"] for name, record in files.items() if _holds_weights(name))


def _holds_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf")) and not is_projector(name)


def _product(*values: int) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _least_tokens(coverage: Sequence[Mapping[str, Any]]) -> int:
    """Tokens that reached the expert of all layers that saw the fewest."""
    return min(tokens for layer in coverage for tokens in layer["tokens"])


def _median_tokens(coverage: Sequence[Mapping[str, Any]]) -> int:
    tokens = sorted(tokens for layer in coverage for tokens in layer["tokens"])
    return int(tokens[len(tokens) // 2])


def _starved(coverage: Sequence[Mapping[str, Any]]) -> int:
    """Experts that fewer tokens reached than the profile asks for."""
    return sum(len(set(layer["unreached"]) | set(layer["few"])) for layer in coverage)


def _experts(coverage: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(layer["tokens"]) for layer in coverage)


def _kept_experts(layers: Sequence[Mapping[str, Any]]) -> str:
    """How many experts a pruning plan keeps in a layer, "6" or "5 to 7"."""
    kept = sorted({len(layer["kept"]) for layer in layers})
    return str(kept[0]) if len(kept) == 1 else f"{kept[0]} to {kept[-1]}"


def _texts_used(files: Mapping[str, Any]) -> int:
    return sum(1 for text in files.values() if text["tokens"])


def _largest(layers: Sequence[Mapping[str, Any]]) -> float:
    return float(max(layer["largest"] for layer in layers))


def _remembered(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule on a config, computed once for each: a card asks for the same figure many times."""

    @lru_cache(maxsize=4096)
    def computed(config: str, *rest: Any) -> Any:
        return rule(json.loads(config), *rest)

    return lambda config, *rest: computed(json.dumps(config, sort_keys=True), *rest)


@_remembered
def _memory(config: Mapping[str, Any], weights: int, engine: str, context: int) -> Memory:
    return memory(config, weights, engine, context)


@_remembered
def _longest_context(
    config: Mapping[str, Any], weights: int, engine: str, machine: str, devices: int = 1
) -> int | None:
    """machine, devices: an entry's name in cards/hardware.yaml, and how many of its devices."""
    name = machine if devices == 1 else f"{devices}x-{machine}"
    return longest_context(config, weights, engine, hardware_named(name))


@_remembered
def _cache_per_token(config: Mapping[str, Any], engine: str) -> float:
    found = growth(config, engine)
    return found.nbytes / found.tokens


def _estimates(config: Mapping[str, Any], weights: int, engine: str, context: int) -> str:
    found: Memory = _memory(config, weights, engine, context)
    return "; ".join(found.estimates)


def _mix_label(scheme: str, budget: Mapping[str, Any]) -> str:
    return f"{scheme}-{Budget.model_validate(budget).label}"


RULES: dict[str, Callable[..., Any]] = {
    "artifact_bytes": artifact_bytes,
    "weight_bytes": _weight_bytes,
    "weight_files": lambda files: sum(map(_holds_weights, files)),
    "sum": lambda *values: sum(values),
    "product": _product,
    "length": len,
    "number_of": lambda *values: len(values),
    "share": lambda part, whole: part / whole,
    "bits_per_weight": lambda files, parameters: 8 * _weight_bytes(files) / parameters,
    "least_tokens": _least_tokens,
    "median_tokens": _median_tokens,
    "starved": _starved,
    "experts": _experts,
    "kept_experts": _kept_experts,
    "texts_used": _texts_used,
    "largest": _largest,
    "longest_trained": longest_trained,
    "longest_context": _longest_context,
    "memory": lambda *asked: _memory(*asked).total,
    "kv_cache": lambda *asked: _memory(*asked).kv_cache,
    "buffers": lambda *asked: _memory(*asked).compute + _memory(*asked).reserve,
    "expert_bytes": lambda *files: sum(n for file in files for name, n in file.items() if "_exps." in name),
    "memory_beside_experts": lambda config, weights, experts, *asked: _memory(config, weights - experts, *asked).total,
    "cache_of_type": lambda config, engine, context, cache: kv_cache(config, engine, context, cache_type=cache),
    "cache_per_token": _cache_per_token,
    "estimates": _estimates,
    "warnings": lambda *findings: sum(f["severity"] == "warning" for found in findings for f in found),
    "mix_label": _mix_label,
    "settings": settings,
    "passed": lambda prompts: sum(1 for prompt in prompts if prompt["passed"]),
}


def _escaped(text: Any) -> str:
    """As Markdown that shows the text itself, in a table too."""
    return re.sub(r"([\\`*|<\[\]])", r"\\\1", " ".join(str(text).split()))


def _sentence(text: Any) -> str:
    """With a capital letter first, unless that is a name, and a period."""
    words = _escaped(text).rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."


FORMATS: dict[str, Callable[..., str]] = {
    "plain": str,
    "text": _escaped,
    "sentence": _sentence,
    "last_name": lambda name: str(name).rpartition(".")[2],
    "file_name": lambda name: str(name).rpartition("/")[2],
    "size": size,
    "size_in_a_table": lambda value: size(value).replace(" ", _UNBROKEN),
    "bytes": lambda value: f"{value:,.10g} bytes",
    "count": lambda value: f"{value:,}",
    "digits": lambda value, digits: f"{value:.{digits}f}",
    "significant": lambda value, digits: f"{value:.{digits}g}",
    "percent": lambda value, digits=0: f"{100 * value:.{digits}f}%",
    "start": lambda value, length: str(value)[:length],
    "parameters": lambda value: f"{value / 1e9:.3g} billion" if value >= 1e8 else f"{value / 1e6:.3g} million",
}
