"""Arguments and results on their way between the tests and the code that they test, as one line of JSON each.

Nothing but plain data crosses, in its exact type, so that neither side can hand the other behavior: no pickles, and no
object whose `__eq__` always says yes. A subclass arrives as its base type. Anything else arrives as Opaque, which
equals nothing but itself.
"""

import json
from collections.abc import Callable
from typing import Any

LONGEST = 8 << 20
"""Bytes of a line; a longer one is as none."""
_PLAIN = 1 << 53


class Opaque:
    """In place of a value that is no plain data."""


class NotPlain(Exception):
    """A line is no value: too long, too deep, or not of this form."""


def line_of(value: Any) -> bytes:
    """Raises NotPlain."""
    try:
        line = json.dumps(_encoded(value)).encode() + b"\n"
    except (RecursionError, ValueError, MemoryError) as error:
        raise NotPlain("a value is nested too deeply or too large") from error
    if len(line) > LONGEST:
        raise NotPlain("a value is too large")
    return line


def value_of(line: bytes) -> Any:
    """Raises NotPlain."""
    if len(line) > LONGEST or not line.endswith(b"\n"):
        raise NotPlain("an answer is cut off or too large")
    try:
        return _decoded(json.loads(line))
    except (RecursionError, ValueError, TypeError, KeyError, IndexError, MemoryError) as error:
        raise NotPlain("an answer is no value") from error


def _encoded(value: Any) -> Any:
    """Lists as they are; what JSON has not as a mapping of one entry, which no plain value is encoded as."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        plain = int(value)
        return plain if abs(plain) < _PLAIN else {"int": hex(plain)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [_encoded(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encoded(item) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in dict.items(value)]}
    if isinstance(value, set | frozenset):
        return {"frozenset" if isinstance(value, frozenset) else "set": [_encoded(item) for item in value]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    return {"opaque": None}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("no value")
    kind = next(iter(value))
    return _KINDS[kind](value[kind])


_KINDS: dict[str, Callable[[Any], Any]] = {
    "int": lambda held: int(held, 16),
    "tuple": lambda held: tuple(_decoded(item) for item in held),
    "dict": lambda held: {_decoded(key): _decoded(item) for key, item in held},
    "set": lambda held: {_decoded(item) for item in held},
    "frozenset": lambda held: frozenset(_decoded(item) for item in held),
    "complex": lambda held: complex(*held),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "opaque": lambda held: Opaque(),
}
