"""How facts get into a page: every figure is an HTML <data> element with its value and its origin."""

import json
from html import escape
from typing import Any

from markupsafe import Markup

from cards.facts.figures import FORMATS
from cards.facts.traced import Derived, Fact, Value


def figure(fact: Value, form: str = "plain", *arguments: Any, missing: str = "") -> Markup:
    """<data value data-file data-at>, or data-rule where it was computed; form: one of cards.facts.figures.FORMATS.

    missing: why there is no figure, shown instead. Raises ValueError where there is neither.
    """
    if fact.value is None:
        return absent(missing)
    if isinstance(fact, Fact):
        origin = f'data-file="{escape(fact.path)}" data-at="{escape(fact.pointer)}"'
    else:
        origin = f'data-rule="{escape(fact.rule)}" data-of="{escape(json.dumps(_sources(fact)))}"'
    how = escape(json.dumps([form, *arguments]))
    text = escape(FORMATS[form](fact.value, *arguments))
    return Markup(f'<data value="{escape(str(fact.value))}" {origin} data-as="{how}">{text}</data>')


def absent(reason: str) -> Markup:
    """In the place of a figure that no file has."""
    if not reason:
        raise ValueError("a figure is missing without a reason")
    return Markup(f'<span class="absent">{escape(reason)}</span>')


def words(fact: Value) -> str:
    """A fact that is text: the page escapes it."""
    return str(fact.value)


def raw(fact: Value) -> str:
    """The value for a sorted column, "" where there is none."""
    return "" if fact.value is None else str(fact.value)


def _sources(found: Derived) -> list[list[str]]:
    return [[part.path, part.pointer] for part in found.of if isinstance(part, Fact)]
