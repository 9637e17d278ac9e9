"""llmcompressor's own recipes: read, checked, and completed with what must not be quantized.

A recipe is {"<name>_stage": {"<group>_modifiers": {"SomeModifier": {arguments}}}}; llmcompressor silently ignores every
key that does not end like this, and then quantizes nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from sixfold.boundary.yaml_text import parse_yaml
from sixfold.errors import UsageError
from sixfold.model.architecture import Architecture, Linear

QUANTIZING = ("QuantizationModifier", "GPTQModifier", "AutoRoundModifier")
"""Modifiers that take `ignore`: modules that stay as they are."""

SMOOTHING_WITHOUT_ROUTER = ("SmoothQuantModifier", "LogarithmicEqualizationModifier", "SpinQuantModifier")
"""Modifiers whose default mappings change a norm's output without undoing it in the router behind it."""


def read_recipe(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """A recipe from a path, a YAML text or as it is. Raises ValueError where llmcompressor would find no modifier."""
    if isinstance(given, str):
        inline = "\n" in given
        path = Path(given).expanduser()
        if not inline and not path.is_file():
            raise ValueError(f"there is no llmcompressor recipe {given}")
        try:
            given = parse_yaml(given if inline else path.read_text(encoding="utf-8", errors="replace"))
        except yaml.YAMLError as error:
            raise ValueError(f"the llmcompressor recipe is not valid YAML ({error})") from None
    if not isinstance(given, Mapping) or not list(modifiers_of(given)):
        raise ValueError(
            "no modifier found; an llmcompressor recipe is {x_stage: {y_modifiers: {SomeModifier: {...}}}}"
        )
    return deepcopy(dict(given))


def scheme_recipe(scheme: str) -> dict[str, Any]:
    """The recipe that only rounds every Linear to a preset of compressed-tensors."""
    return {"default_stage": {"default_modifiers": {"QuantizationModifier": {"targets": ["Linear"], "scheme": scheme}}}}


def modifiers_of(recipe: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, arguments) of every modifier that llmcompressor would run."""
    for stage, groups in recipe.items():
        if str(stage).endswith("_stage") and isinstance(groups, dict):
            for group, modifiers in groups.items():
                if str(group).endswith("_modifiers") and isinstance(modifiers, dict):
                    for name, arguments in modifiers.items():
                        yield name, arguments if isinstance(arguments, dict) else {}


def guarded(recipe: Mapping[str, Any], architecture: Architecture, untouched: Sequence[str]) -> dict[str, Any]:
    """The recipe with `untouched` modules ignored and AWQ's mappings completed.

    Raises UsageError for modifiers that would change the routing unseen.
    """
    completed = deepcopy(dict(recipe))
    for name, arguments in modifiers_of(completed):
        if name in QUANTIZING:
            arguments["ignore"] = list(dict.fromkeys([*(arguments.get("ignore") or []), *untouched]))
        if name == "AWQModifier" and not arguments.get("mappings"):
            arguments["mappings"] = awq_mappings(architecture)
        if name in SMOOTHING_WITHOUT_ROUTER and architecture.experts and not arguments.get("mappings"):
            raise UsageError(
                f"llmcompressor's {name} rescales norms without their routers",
                "state its `mappings`, with every reader of each norm, or use AWQModifier",
            )
    return completed


def group_sizes(recipe: Mapping[str, Any]) -> set[int]:
    """Sizes of the groups along a row that the recipe's schemes share a scale over."""
    from compressed_tensors.quantization import preset_name_to_scheme

    found = set()
    for _, arguments in modifiers_of(recipe):
        groups = list((arguments.get("config_groups") or {}).values())
        weights = [group.get("weights") or {} for group in groups if isinstance(group, dict)]
        found |= {size for w in weights if isinstance(size := w.get("group_size"), int) and size > 0}
        if isinstance(scheme := arguments.get("scheme"), str):
            preset = preset_name_to_scheme(scheme, []).weights
            found |= {preset.group_size} if preset and preset.group_size and preset.group_size > 0 else set()
    return found


def module_name(linear: Linear) -> str:
    """Name of the module in llmcompressor's model, which splits experts into Linears of one naming for all families."""
    return linear.module if linear.expert is None else f"{linear.module}.{linear.expert}.{linear.part}_proj"


def awq_mappings(architecture: Architecture) -> list[dict[str, Any]]:
    """AWQModifier's `mappings`: every norm with ALL that reads it, the router among them; v to o and up to down.

    Norms of several layers share a mapping where the same modules read them, since each mapping is searched for in the
    whole model. The norm's module is named by its on-disk name: families rename Linears of experts, but no norms.
    """
    named = {linear.name: linear for linear in architecture.linears}
    layers: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for norm in architecture.norms:
        if not (norm.exact and norm.readers and norm.layer is not None):
            continue
        readers = sorted({_pattern(module_name(named[reader]), norm.layer) for reader in norm.readers})
        # llmcompressor watches the input of the first one; the router sees every token, an expert only its own.
        readers.sort(key=lambda pattern: r"\d+" in pattern)
        key = (_pattern(norm.weight.removesuffix(".weight"), norm.layer), tuple(readers))
        layers.setdefault(key, []).append(norm.layer)
    mappings = [
        {
            "smooth_layer": _of_layers(norm, numbers),
            "balance_layers": [_of_layers(reader, numbers) for reader in readers],
        }
        for (norm, readers), numbers in layers.items()
    ]
    parts = {linear.part for linear in architecture.linears}
    for before, after in (("v_proj", "o_proj"), ("up_proj", "down_proj")):
        if {before, after} <= parts or (before == "up_proj" and {"up", "down"} <= parts):
            mappings.append({"smooth_layer": f"re:.*{before}$", "balance_layers": [f"re:.*{after}$"]})
    return mappings


def _pattern(name: str, layer: int) -> str:
    """A regular expression for the name in any layer (LAYER stands for its number) and any expert."""
    head, found, tail = name.partition(f".layers.{layer}.")
    parts = [*head.split("."), "layers", "LAYER", *tail.split(".")] if found else name.split(".")
    return r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in parts)


def _of_layers(pattern: str, layers: Iterable[int]) -> str:
    return "re:^" + pattern.replace("LAYER", f"({'|'.join(map(str, layers))})") + "$"
