"""What is wrong with a recipe's value and what to write instead, in words that need no Python."""

from collections.abc import Mapping
from typing import Any

_NUMBER = "write a number, such as 0.05"
_WORDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), ("is not a whole number", "write one, such as 64")),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), ("is not a number", _NUMBER)),
    **dict.fromkeys(("bool_type", "bool_parsing"), ("is neither true nor false", "write true or false")),
    "string_type": ("is not text", "put it in quotes"),
    "string_too_short": ("is empty", "write something, or leave the key out"),
    "string_pattern_mismatch": (
        "has characters that a name may not have",
        "use letters, digits, '.', '_' and '-', and begin with a letter or digit",
    ),
    **dict.fromkeys(("tuple_type", "list_type"), ("is not a list", "write it in brackets: [a, b]")),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type"),
        ("is not a group of keys", "write the keys below it, each on a line of its own, indented"),
    ),
}
"""pydantic's type of an error -> what is wrong, and the remedy."""
_BOUNDS = {
    "greater_than": ("is not more than", "gt"),
    "greater_than_equal": ("is less than", "ge"),
    "less_than": ("is not less than", "lt"),
    "less_than_equal": ("is more than", "le"),
}


def wrong_value(kind: str, context: Mapping[str, Any], message: str) -> tuple[str, str]:
    """(what is wrong with the value, the remedy).

    kind, context, message: of an error of pydantic's.
    """
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]:g}", "write a number within the bounds"
    if kind in ("literal_error", "enum"):
        return "is not known here", f"write {str(context['expected']).replace(chr(39), '')}"
    if kind in _WORDS:
        return _WORDS[kind]
    return message.removeprefix("Value error, "), "see recipes/schema.json for what the key takes"
