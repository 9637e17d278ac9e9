"""Temporarily replaces the attention function that transformers' models call.

Families call it by the name of their attention implementation; those that compute attention themselves are not reached.
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

    if name not in ALL_ATTENTION_FUNCTIONS:
        yield
        return
    before = ALL_ATTENTION_FUNCTIONS[name]
    ALL_ATTENTION_FUNCTIONS.register(name, around(before))
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(name, before)
