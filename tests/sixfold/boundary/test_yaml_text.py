import pytest
import yaml

from sixfold.boundary.yaml_text import line_and_problem, parse_yaml


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x [1]\nb: *x", "line 2: aliases"),
        ("&a {x: *a}", "aliases"),
        ("a: !!python/object/apply:os.system [ls]", "tag !!python/object/apply"),
        ("a: !!timestamp x", "tag !!timestamp"),
        ("a: !!bool x", "no value of the tag bool"),
        ("a: !!int x", "no value of the tag int"),
        ('a: "\\UFFFFFFFF"', "escape of no character"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ("[" * 200, "levels deep"),
        ("a" * (1 << 21), "at most"),
        ("a: [", "line 1"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(yaml.YAMLError) as raised:
        parse_yaml(text)
    line, problem = line_and_problem(raised.value)
    assert says in f"line {line}: {problem}"


def test_what_is_read() -> None:
    text = "a: [1, 2.5, null, true]\nday: 2001-99-99\ntext: |\n  two\n  lines\nempty:\n"
    assert parse_yaml(text) == {"a": [1, 2.5, None, True], "day": "2001-99-99", "text": "two\nlines\n", "empty": None}
