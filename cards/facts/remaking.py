"""What to give `sixfold export` so that it makes a variant again: how its recipe differs from the shipped one."""

import json
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from sixfold.recipes.recipe import load_recipes, shipped_recipes

_SAID_BY_NAME = {"name", "suffix", "title", "engines", "hardware"}
"""Keys that change no byte of the weights."""
_NEAREST_ALWAYS = {"Q8_0", "BF16", "F16", "F32"}
"""Schemes without codes to choose: what was asked of their rounding is not kept in a manifest."""


def settings(recipe: Mapping[str, Any]) -> str | None:
    """The `--set` options that make the shipped recipe of that name into this one, "" where there is no difference;
    None where no such recipe ships.

    recipe: of a manifest, with all defaults filled in.
    """
    files = {path.stem: path for path in shipped_recipes()}
    if recipe["name"] not in files:
        return None
    shipped = load_recipes(recipe["name"])[0].model_dump(mode="json")
    if shipped["exporter"] != recipe["exporter"]:
        return None
    shipped["options"] = {**_default_options(recipe["exporter"]), **shipped["options"]}
    unsaid = _SAID_BY_NAME | ({"rounding"} if recipe["scheme"] in _NEAREST_ALWAYS else set())
    changed = {key: value for key, value in recipe.items() if key not in unsaid}
    return " ".join(f"--set {shlex.quote(f'{key}={_written(value)}')}" for key, value in _changes(changed, shipped))


@cache
def _default_options(exporter: str) -> dict[str, Any]:
    schema = json.loads((shipped_recipes()[0].parent / "schema.json").read_text(encoding="utf-8"))
    options = schema["$defs"].get(f"{exporter}-options", {}).get("properties", {})
    return {key: found["default"] for key, found in options.items() if "default" in found}


def _changes(new: Mapping[str, Any], old: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each leaf that differs. A budget replaces the other as a whole, and with `fits` its bytes
    are computed, not stated."""
    for key, value in new.items():
        before = old.get(key)
        if value == before:
            continue
        if key == "budget" and isinstance(value, Mapping):
            stated = {k: v for k, v in value.items() if v and not (k == "bytes" and value.get("fits"))}
            yield from _changes(stated, {}, f"{key}.")
        elif isinstance(value, Mapping):
            yield from _changes(value, before if isinstance(before, Mapping) else {}, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _written(value: Any) -> str:
    """As a YAML value on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
