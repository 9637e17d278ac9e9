"""Whether the Hub will accept a card's front matter, checked offline.

The Hub validates at upload (POST /api/validate-yaml, which huggingface_hub calls by itself) and refuses the commit.
Some fields it accepts and then silently ignores, such as a base model that is not a repository; these are problems too.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import yaml

from cards.model_card.hub_values import LANGUAGES, LIBRARIES, LICENSES, NO_LANGUAGES, PIPELINES, RELATIONS
from sixfold.boundary.yaml_text import PlainLoader
from sixfold.checkpoint.hub import is_hub_id

_BLOCK = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
_LARGEST = 10_000_000
"""Bytes: the Hub refuses a larger file that is not in LFS, and shows none that is."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class _NoDuplicates(PlainLoader):
    """YAML as the Hub reads it: a key that is given twice is an error, where PyYAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for repeated in (key for i, key in enumerate(keys) if key in keys[:i]):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def split(card_text: str) -> tuple[str, str]:
    """(the YAML between the `---` lines, "" where there is none; the Markdown after it)"""
    found = _BLOCK.match(card_text)
    return (found[1], card_text[found.end() :]) if found else ("", card_text)


def fields(card_text: str) -> dict[str, Any]:
    """The front matter's fields; {} where there is none, or it is not valid."""
    try:
        found = yaml.load(split(card_text)[0], _NoDuplicates)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def problems(card_text: str) -> tuple[str, ...]:
    """What the Hub would refuse or ignore, one sentence each; () where the card may be uploaded."""
    if len(card_text.encode()) > _LARGEST:
        return (f"the card is larger than {_LARGEST} bytes, and the Hub shows none of that size",)
    text, _ = split(card_text)
    if not text:
        return ("the card has no front matter between two lines of ---",)
    try:
        found = yaml.load(text, _NoDuplicates)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 2}" if mark else ""
        return (f"the front matter is not valid YAML{line}: {getattr(error, 'problem', None) or error}",)
    if not isinstance(found, dict):
        return ("the front matter does not consist of `key: value` lines",)
    return tuple(_problems(found))


def _problems(found: Mapping[str, Any]) -> Iterator[str]:
    if not_text := [key for key in found if not isinstance(key, str)]:
        yield f"the key {not_text[0]!r} is not text"
    yield from _license(found)
    for key, check in _CHECKS.items():
        if key in found:
            yield from check(key, found[key])
    if "base_model_relation" in found and "base_model" not in found:
        yield "base_model_relation is given without a base_model"
    if "model-index" in found and not _is_model_index(found["model-index"]):
        yield "model-index is not a list of models, each with a name and results"


def _license(found: Mapping[str, Any]) -> Iterator[str]:
    given = found.get("license")
    if given is None:
        yield "there is no license"
        return
    for value in given if isinstance(given, list) else [given]:
        if value not in LICENSES:
            yield f"license {value!r} is not one that the Hub knows: give `other` with license_name and license_link"
    if given == "other":
        for key in ("license_name", "license_link"):
            if not found.get(key):
                yield f"license is other, and {key} is missing"


def _text(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value.strip():
        yield f"{key} is {value!r}, which is not text"


def _link(key: str, value: Any) -> Iterator[str]:
    """A URL, or a file of the repository."""
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/]+\S*|[A-Za-z0-9_.-]+", value):
        yield f"{key} {value!r} is neither a URL nor the name of a file beside the card"


def _one_of(known: frozenset[str], what: str) -> Callable[[str, Any], Iterator[str]]:
    def check(key: str, value: Any) -> Iterator[str]:
        if not isinstance(value, str) or value not in known:
            yield f"{key} {value!r} is not a {what} that the Hub knows"

    return check


def _texts(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{key} is not a list"
        return
    for entry in value:
        if not isinstance(entry, str) or not entry.strip():
            yield f"{key} has {entry!r}, which is not text"
    for repeated in sorted({str(entry) for entry in value if value.count(entry) > 1}):
        yield f"{key} has {repeated} twice"


def _repositories(key: str, value: Any) -> Iterator[str]:
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str) or not is_hub_id(entry):
            yield f"{key} {entry!r} is not a repository: give owner/name"


def _datasets(key: str, value: Any) -> Iterator[str]:
    """owner/name, or the name alone of the Hub's oldest data sets."""
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str) or not (is_hub_id(entry) or _NAME.fullmatch(entry)):
            yield f"{key} has {entry!r}, which is not a dataset's id"


def _languages(key: str, value: Any) -> Iterator[str]:
    for entry in value if isinstance(value, list) else [value]:
        known = entry in LANGUAGES or entry in NO_LANGUAGES if isinstance(entry, str) else False
        if not known and not (isinstance(entry, str) and re.fullmatch(r"[a-z]{3}", entry)):
            # `no` without quotes is how YAML writes false, and a Norwegian model's card loses its language to it.
            hint = ": write it in quotes" if isinstance(entry, bool) else ": give a code of ISO 639"
            yield f"{key} {entry!r} is not a language{hint}"


def _is_model_index(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(model, dict) and isinstance(model.get("name"), str) and isinstance(model.get("results"), list)
        for model in value
    )


_CHECKS: dict[str, Callable[[str, Any], Iterator[str]]] = {
    "license_name": _text,
    "license_link": _link,
    "base_model": _repositories,
    "base_model_relation": _one_of(RELATIONS, "relation"),
    "new_version": _repositories,
    "library_name": _one_of(LIBRARIES, "library"),
    "pipeline_tag": _one_of(PIPELINES, "task"),
    "tags": _texts,
    "language": _languages,
    "datasets": _datasets,
    "quantized_by": _text,
    "model_name": _text,
}
