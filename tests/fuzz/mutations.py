"""Small changes to bytes and to JSON, of the kinds that broke readers before. All randomness comes from the caller."""

import json
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**64,
    10**40,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "\x00",
    "../../etc/passwd",
    "x" * 5000,
    "é" * 300,
    [],
    {},
    [[]],
    {"a": 1},
    [None],
)
_TEXTS = (
    b"\xff",
    b"\x00",
    b"\\ud800",
    b"9" * 6000,
    b"[" * 5000,
    b'{"a":' * 3000,
    b"&a [*a]",
    b"!!python/object ",
    b"2001-99-99",
)


def bytes_like(seed: bytes, random: Random) -> bytes:
    """`seed` with one to three changes: a bit, a number, a cut, a copy, or something that means harm."""
    data = bytearray(seed)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            size = random.choice((1, 2, 4, 8))
            number = random.choice((0, 1, 2**31 - 1, 2**31, 2**63, 2**64 - 1, len(seed))) % 256**size
            data[at : at + size] = number.to_bytes(size, "little")
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            stop = at + random.randrange(64)
            data[at:at] = data[at:stop]
        elif kind == 4:
            del data[at : at + random.randrange(1, 16)]
        elif kind == 5:
            data[at:at] = random.choice(_TEXTS)
        else:
            data[at:at] = random.randbytes(random.randrange(1, 16))
    return bytes(data)


def json_like(seed: Any, random: Random) -> bytes:
    """`seed` with one to three values exchanged for others, dropped or renamed; sometimes damaged as bytes, too."""
    value = json.loads(json.dumps(seed))
    for _ in range(random.randint(1, 3)):
        value = _changed(value, random)
    text = json.dumps(value).encode()
    return bytes_like(text, random) if random.random() < 0.2 else text


def _changed(value: Any, random: Random) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        kind = random.randrange(6)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {(random.choice(("", "x" * 300, "\x00", "..")) if k == key else k): v for k, v in value.items()}
        return {k: _changed(v, random) if k == key else v for k, v in value.items()}
    if isinstance(value, list) and value and random.random() < 0.85:
        at = random.randrange(len(value))
        return [*value[:at], _changed(value[at], random), *value[at + 1 :]]
    return random.choice(VALUES)
