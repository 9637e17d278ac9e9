"""The shape of this project's own records, to which they are held when they are read: a record that somebody edited,
or that a disk damaged, is as good as none. What each says is documented where it is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Each:
    """A list, or the values of an object, of one shape."""

    shape: Any


@dataclass(frozen=True)
class Maybe:
    """Null, absent, or of a shape."""

    shape: Any


NUMBER = (int, float)
_SOURCE = {"fingerprint": str}
_FINDING = dict.fromkeys(("check", "where", "what", "consequence", "remedy", "severity"), str)
_GATES = Each(Maybe(NUMBER))
_SCORE = {"mean_kl": NUMBER, "top1": NUMBER, "domains": Each(NUMBER), "layers": Each(NUMBER)}
_PROMPT = {
    **dict.fromkeys(("name", "prompt", "rule", "source", "answer", "problem"), str),
    **dict.fromkeys(("source_holds", "holds"), Maybe(bool)),
    "passed": bool,
}
_RECIPE = {
    **dict.fromkeys(("name", "suffix", "title", "exporter", "scheme"), Maybe(str)),
    "keep": Maybe(Each(str)),
    "engines": Maybe(Each(str)),
    "hardware": Maybe(Each(str)),
    "calibration": Maybe(dict),
    "options": Maybe(dict),
    "gates": Maybe(_GATES),
    "rounding": Maybe(str),
}
_MANIFEST = {
    "variant": str,
    "model": Maybe(str),
    "source": _SOURCE,
    "recipe": _RECIPE,
    "statistics": Maybe(str),
    "versions": Each(Maybe(str)),
    "notes": Maybe(Each(str)),
    "provenance": Maybe(dict),
    "files": Each({"bytes": int, "sha256": str}),
}
_PRUNED = {key: shape for key, shape in _MANIFEST.items() if key != "recipe"}
"""Of what `sixfold prune` made, without a recipe."""
_SINCE = {"name": str, "fingerprint": str, "scores": Each(_SCORE)}
_VERIFICATION = {
    "artifact": {"name": str, "kind": str, "files": Each(int), "content": str},
    "source": Maybe({"name": str, "fingerprint": str}),
    "passed": bool,
    "gates": _GATES,
    "allowed": _GATES,
    "findings": Each(_FINDING),
    "weights": Maybe({"formats": Each(dict), "groups": Each(dict), "worst": Each(dict)}),
    "divergence": Maybe(
        {"tokens": int, "windows": int, "scores": Each(_SCORE), "plain": Maybe(_SCORE), "original": Maybe(_SINCE)}
    ),
    "smoke": Maybe({"engine": str, "prompts": Each(_PROMPT)}),
    "tensor_parallel": Maybe(Each(Each(str))),
}
_RUN = {"modified_ns": Maybe(Each(int)), "seconds": Maybe(NUMBER)}


def is_sound(file: str, value: Mapping[str, Any]) -> bool:
    """Whether a record read from a file of this name has the shape of its kind. Others have none to hold to."""
    if file.endswith("manifest.json") and ("recipe" in value or "variant" in value):
        return _has(value, _PRUNED if value.get("variant") == "pruned" else _MANIFEST)
    if file.endswith("verification.json") and value.get("schema") == _SCHEMA:
        return value.keys() >= _VERIFICATION.keys() and _has(value, _VERIFICATION)
    return not file.endswith("run.json") or _has(value, _RUN)


_SCHEMA = 4
"""Of verification.json: others are read by nobody."""


def _has(value: Any, shape: Any) -> bool:
    if isinstance(shape, Maybe):
        return value is None or _has(value, shape.shape)
    if isinstance(shape, Each):
        inner = list(value.values()) if isinstance(value, dict) else value
        return isinstance(inner, list) and all(_has(one, shape.shape) for one in inner)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_has(value.get(key), inner) for key, inner in shape.items())
    if isinstance(value, bool):
        return shape is bool
    return isinstance(value, shape)
