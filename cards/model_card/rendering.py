"""Rendering of templates: what a template may call, and how its text is checked.

A template prints facts, and nothing that has a digit is anything else: `render` refuses a text in which somebody typed
a number.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cards.facts.traced import Shown, Value, derived, finalized, shown, without_marks

TEMPLATES = Path(__file__).parents[1] / "templates"
NAMES = (
    "BF16",
    "GGUF",
    "float32",
    "sha256",
    "top-1",
    "top-5",
    "99th",
)
"""Names with digits that a template may use."""
_NAME = re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?!\w)" for name in NAMES))


def render(template: str, context: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The text, and the origin of every figure in it, each once, in their order.

    Raises ValueError where a template typed a number, TypeError where it prints what is no fact, and jinja2's
    UndefinedError where it names something that is not in the context.
    """
    text, origins, typed = without_marks(_environment().get_template(template).render(context))
    found = re.search(r"[^\n]*\d[^\n]*", _NAME.sub("", typed))
    if found:
        raise ValueError(f"{template} prints a number that comes from no file: {found[0].strip()}")
    seen = {repr(origin): origin for origin in origins if any(c.isdigit() for c in origin["shown"])}
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", list(seen.values())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        finalize=finalized,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    for form in (
        "size",
        "size_in_a_table",
        "bytes",
        "count",
        "digits",
        "significant",
        "percent",
        "start",
        "sentence",
        "text",
        "file_name",
    ):
        environment.filters[form] = _as(form)
    environment.filters["parameters"] = _as("parameters")
    environment.filters["number"] = lambda fact, rule: derived(rule, fact)
    environment.filters["share"] = lambda part, whole: derived("share", part, whole)
    environment.filters["product"] = lambda a, b: derived("product", a, b)
    environment.filters["listed"] = listed
    environment.filters["counted"] = counted
    environment.globals["yours"] = slot
    return environment


def _as(form: str) -> Callable[..., Shown]:
    return lambda fact, *arguments: shown(fact, form, *arguments)


def counted(fact: Value, noun: str) -> str:
    """ "1 expert", "1,024 experts"."""
    return f"{shown(fact, 'count')} {noun}{'' if fact.value == 1 else 's'}"


def listed(facts: Iterable[Value]) -> str:
    """Facts with commas between them."""
    return ", ".join(shown(fact, "text") for fact in facts)


def slot(name: str) -> str:
    """A place that a person may write in; cards.model_card.hand_written keeps its text."""
    return f"<!-- yours: {name} -->\n\n<!-- /yours -->"


def link(text: str, target: str) -> str:
    return f"[{text}]({target})"


def hub_link(repository: str) -> str:
    """To a repository on the Hub, by its id."""
    return link(repository, f"https://huggingface.co/{repository}")
