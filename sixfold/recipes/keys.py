"""The keys that a recipe may have, and which of them a misspelt one means."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, get_args, get_origin

from pydantic import BaseModel

_NEAR = 0.6
"""Least similarity of two words of which one may mean the other, as difflib's get_close_matches has it."""


def keys_beside(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Field names of the model that holds the last part of `loc`."""
    for part in loc[:-1]:
        if isinstance(part, int):  # an item of the list that was just entered
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a model and of the groups in it, as `--set` writes it; items of lists have none."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if get_origin(field.annotation) is tuple:
            continue
        if (inner := _model_in(field.annotation)) is not None:
            yield from dotted_keys(inner, f"{prefix}{name}.")


def nearest_key(word: str, beside: Sequence[str], everywhere: Sequence[str]) -> str:
    """ "perhaps calibration.samples is meant" for "sample"; "" where nothing is near.

    beside: keys where the word stands, which come before one as near of another group. everywhere: dotted keys.
    """
    found = [(_likeness(word, key), key) for key in beside]
    found += [(_likeness(word, key.rpartition(".")[2]), key) for key in everywhere]
    likeness, key = max(found, key=lambda pair: pair[0], default=(0.0, ""))
    return f"perhaps {key} is meant" if likeness >= _NEAR else ""


def _likeness(word: str, key: str) -> float:
    return SequenceMatcher(None, word, key).ratio()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, or that it holds a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
