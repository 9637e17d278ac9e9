"""JSON from files that somebody else wrote."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sixfold.errors import SixfoldError

_DEEPEST = 64
"""Levels of nesting. Nothing that a model comes with has ten."""

_LONGEST_NUMBER = 40
"""Digits of an integer. 64 bits have twenty."""

_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_AGAIN = "copy or download the file again, or correct it"


def parse_json(data: bytes | str, name: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Raises SixfoldError, which calls the text `name`, for what is no JSON, and for what no reader would be safe with:
    invalid UTF-8, half of a surrogate pair, numbers of thousands of digits, and deep nesting.

    pairs: as json.loads' object_pairs_hook; what it raises as ValueError is refused too.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_int=_integer, object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise SixfoldError(f"{name} is not UTF-8: byte {error.start} begins no character", _AGAIN) from None
    except RecursionError:
        raise SixfoldError(f"{name} is nested too deeply for JSON", _AGAIN) from None
    except ValueError as error:
        raise SixfoldError(f"{name} is not valid JSON: {error}", _AGAIN) from None
    _check(value, name, bool(_MAYBE_SURROGATE.search(text)))
    return value


def read_json_file(path: Path) -> Any:
    """Raises SixfoldError where the file cannot be read, or as `parse_json`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SixfoldError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from None
    return parse_json(data, str(path))


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _check(value: Any, name: str, strings: bool) -> None:
    """strings: whether the text can hold half of a surrogate pair."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
                inner += one.keys() if strings else ()
            elif isinstance(one, list):
                inner += one
            elif strings and isinstance(one, str) and any("\ud800" <= letter <= "\udfff" for letter in one):
                raise SixfoldError(f"{name} holds half of a surrogate pair, which is no character", _AGAIN)
        level, depth = inner, depth + 1
        if depth > _DEEPEST:
            raise SixfoldError(f"{name} is nested too deeply: more than {_DEEPEST} levels", _AGAIN)
