"""Temporarily replaces the attention function that transformers' models call.

Families call it by the name of their attention implementation, and their own where that is "eager"; those that compute
attention without asking for a function are not reached.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Attention = Callable[..., tuple[Any, ...]]
"""(module, query, key, value, attention mask, ...) -> (attended [samples, length, heads, channels], ...)."""


@contextmanager
def attention_around(name: str, around: Callable[[Attention], Attention]) -> Iterator[None]:
    """While open, transformers' attention function `name` is around(what it was); nothing where it knows none."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":
        with _eager_around(ALL_ATTENTION_FUNCTIONS, around):
            yield
        return
    if name not in ALL_ATTENTION_FUNCTIONS:
        yield
        return
    before = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS.register(name, around(before))
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(name, before)


@contextmanager
def _eager_around(functions: Any, around: Callable[[Attention], Attention]) -> Iterator[None]:
    """The same of what each family has for itself, and hands over as what to take where no other is asked for."""
    before, own = vars(functions).get("get_interface"), functions.get_interface

    def get_interface(implementation: str, default: Attention) -> Attention:
        found: Attention = own(implementation, default)
        return around(found) if implementation == "eager" else found

    functions.get_interface = get_interface
    try:
        yield
    finally:
        del functions.get_interface
        if before is not None:
            functions.get_interface = before
