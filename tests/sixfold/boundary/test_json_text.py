import pytest

from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, "more than 64 levels"),
        (b"9" * 5000, "an integer of 5000 digits"),
        (b'{"a": ["\\ud800"]}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(SixfoldError, match=says):
        parse_json(text, "it")


def test_what_is_read() -> None:
    text = '\ufeff{"a": [1, 2.5, null, true], "grin": "\\ud83d\\ude00", "n": 18446744073709551615, "inf": Infinity}'
    found = parse_json(text.encode(), "it")
    assert found == {"a": [1, 2.5, None, True], "grin": "😀", "n": 2**64 - 1, "inf": float("inf")}
    assert parse_json("[" * 64 + "]" * 64, "it") is not None
