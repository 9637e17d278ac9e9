"""A value with the file and key that it was read from, and how it gets onto a card.

A template sees facts only, and prints them only through `shown` (Jinja's finalize and the filters of
cards.model_card.rendering call it). What it prints is marked with its origin by characters of Unicode's private use
area. So the finished text has the origin of each figure, and every other digit must have been typed into a template.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import Undefined

from cards.facts.figures import FORMATS, RULES

_OPEN, _BETWEEN, _CLOSE = "\ue000", "\ue001", "\ue002"
_MARK = re.compile(f"{_OPEN}([^{_BETWEEN}]*){_BETWEEN}([^{_CLOSE}]*){_CLOSE}")


@dataclass(frozen=True)
class Fact:
    """value: as json.loads or yaml.safe_load gave it; None where the file has no such key, which is false and cannot be
    printed. path: relative to the card's folder, or "sixfold:<path>" of a table that ships with the project.
    pointer: JSON pointer (RFC 6901) of the value; "#" behind it means the name of the key itself.

    Keys and entries are reached as attributes and items, which are facts again.
    """

    value: Any
    path: str
    pointer: str = ""

    def __getitem__(self, key: str | int) -> "Fact":
        below = self.value
        if isinstance(below, dict):
            below = below.get(key)
        elif isinstance(below, list) and isinstance(key, int):
            below = below[key]
        else:
            below = None
        return Fact(below, self.path, f"{self.pointer}/{_escaped(str(key))}")

    def __getattr__(self, name: str) -> "Fact":
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __iter__(self) -> Iterator["Fact"]:
        """Entries of a list, values of a mapping."""
        keys = self.value if isinstance(self.value, dict) else range(len(self.value or ()))
        return (self[key] for key in keys)

    def pairs(self) -> Iterator[tuple["Fact", "Fact"]]:
        """Of a mapping: its keys, each with its value."""
        return ((Fact(key, self.path, f"{self[key].pointer}#"), self[key]) for key in self.value or {})

    def __len__(self) -> int:
        return len(self.value or ())

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == (other.value if isinstance(other, Fact) else other))

    def __hash__(self) -> int:
        return hash((self.path, self.pointer))

    def __contains__(self, item: object) -> bool:
        return item in (self.value or ())

    def __str__(self) -> str:
        raise TypeError(f"{self.path}{self.pointer} is printed past its origin")

    @property
    def origin(self) -> dict[str, Any]:
        return {"file": self.path, "at": self.pointer, "value": self.value}


@dataclass(frozen=True)
class Derived:
    """What a rule of cards.facts.figures makes of facts."""

    rule: str
    of: "tuple[Fact | Derived, ...]"

    @property
    def value(self) -> Any:
        return RULES[self.rule](*(fact.value for fact in self.of))

    def __bool__(self) -> bool:
        return bool(self.value)

    def __str__(self) -> str:
        raise TypeError(f"a figure by the rule {self.rule} is printed past its origin")

    @property
    def origin(self) -> dict[str, Any]:
        parts = [{k: v for k, v in f.origin.items() if k != "value" or _is_small(v)} for f in self.of]
        return {"rule": self.rule, "of": parts, "value": self.value}


Value = Fact | Derived


def _is_small(value: Any) -> bool:
    return not isinstance(value, dict | list)


def derived(rule: str, *of: Value) -> Derived:
    return Derived(rule, of)


class Shown(str):
    """Text that is marked with its origin; a template may print it."""

    __slots__ = ()


def shown(fact: Value, form: str = "plain", *arguments: Any) -> Shown:
    """form: one of cards.facts.figures.FORMATS. Raises ValueError where there is no value."""
    if fact.value is None:
        raise ValueError(f"a card would print a value that is not there: {fact!r}")
    text = FORMATS[form](fact.value, *arguments)
    origin = {"shown": text, "as": [form, *arguments], **fact.origin}
    return Shown(f"{_OPEN}{json.dumps(origin, ensure_ascii=False)}{_BETWEEN}{text}{_CLOSE}")


def finalized(value: Any) -> Any:
    """Jinja's finalize: facts are printed with their origin, text as it is, and no number that is not a fact."""
    if isinstance(value, Fact | Derived):
        return shown(value)
    if isinstance(value, str | Undefined):  # an `if` without `else`; what is not in the context raises as text
        return value
    raise TypeError(f"a template prints {value!r}, which is no fact")


def without_marks(text: str) -> tuple[str, list[dict[str, Any]], str]:
    """(the text as it is read, the origin of every figure in its order, what is left of the text without figures)"""
    origins = [json.loads(found[1]) for found in _MARK.finditer(text)]
    return _MARK.sub(lambda found: found[2], text), origins, _MARK.sub("", text)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def resolved(document: Any, pointer: str) -> Any:
    """What a JSON pointer, or one with "#" behind it, names in a document. Raises KeyError where there is nothing."""
    key = None
    for part in pointer.removesuffix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        try:
            document = document[int(key) if isinstance(document, list) else key]
        except (TypeError, ValueError, IndexError) as error:
            raise KeyError(pointer) from error
    return key if pointer.endswith("#") else document
