"""A template prints facts with their origin, and nothing else that has a digit."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from cards.facts.traced import Fact, derived, resolved, shown
from cards.model_card import rendering

FILE = Fact({"size": 1500, "a/b~c": [7, "x"], "file": "theirs", "none": None}, "manifest.json")
Render = Callable[..., tuple[str, list[dict[str, Any]]]]


@pytest.fixture
def render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Render]:
    """Renders a template given as text."""
    monkeypatch.setattr(rendering, "TEMPLATES", tmp_path)
    rendering._environment.cache_clear()

    def rendered(source: str, **context: Any) -> tuple[str, list[dict[str, Any]]]:
        (tmp_path / "test.md.j2").write_text(source)
        rendering._environment.cache_clear()
        return rendering.render("test.md.j2", {"fact": FILE, **context})

    yield rendered
    rendering._environment.cache_clear()


def test_a_figure_is_printed_with_its_origin(render: Render) -> None:
    text, (figure,) = render("It has {{ fact.size | size }}.")
    assert text == "It has 1.5 kB.\n"
    origin = {"file": "manifest.json", "at": "/size", "value": 1500}
    assert figure == {"shown": "1.5 kB", "as": ["size"], **origin}


def test_what_was_computed_says_of_what(render: Render) -> None:
    text, (figure,) = render("{{ fact.size | product(fact['a/b~c'][0]) | count }}")
    assert text == "10,500\n"
    assert (figure["rule"], figure["value"]) == ("product", 10500)
    assert [(part["at"], part["value"]) for part in figure["of"]] == [("/size", 1500), ("/a~1b~0c/0", 7)]


def test_a_figure_that_stands_twice_is_told_once(render: Render) -> None:
    assert len(render("{{ fact.size }} and {{ fact.size }}, {{ fact.size | count }}")[1]) == 2


def test_words_have_no_origin(render: Render) -> None:
    assert render("{{ fact.file }} in BF16")[1] == []


@pytest.mark.parametrize("source", ["It has 5 files.", "{{ '5 files' }}", "{{ fact.file }} v2", "BF160"])
def test_a_typed_number_is_refused(source: str, render: Render) -> None:
    with pytest.raises(ValueError, match="prints a number that comes from no file"):
        render(source)


@pytest.mark.parametrize("source", ["{{ 5 }}", "{{ number }}", "{{ fact | length }}", "{{ fact.size ~ '' }}"])
def test_what_is_no_fact_is_refused(source: str, render: Render) -> None:
    with pytest.raises(TypeError):
        render(source, number=5)


def test_what_is_not_there_is_not_printed(render: Render) -> None:
    assert render("{% if fact.absent.deeper %}There.{% endif %}Nothing.")[0] == "Nothing.\n"
    for source in ("{{ fact.absent }}", "{{ fact.none | size }}", "{{ fact.file.deeper }}"):
        with pytest.raises(ValueError, match="not there"):
            render(source)
    with pytest.raises(UndefinedError):
        render("{{ unknown }}")


def test_a_fact_is_the_same_wherever_it_is_reached_from() -> None:
    assert [fact.pointer for fact in FILE["a/b~c"]] == ["/a~1b~0c/0", "/a~1b~0c/1"]
    (size, value), *_ = FILE.pairs()
    assert (size.value, size.pointer, value.value) == ("size", "/size#", 1500)
    assert FILE.size == 1500
    assert FILE["file"] == "theirs"
    assert "x" in FILE["a/b~c"]


@pytest.mark.parametrize(
    ("pointer", "value"), [("", FILE.value), ("/size", 1500), ("/a~1b~0c/1", "x"), ("/size#", "size")]
)
def test_a_pointer_leads_to_its_value(pointer: str, value: Any) -> None:
    assert resolved(FILE.value, pointer) == value


@pytest.mark.parametrize("pointer", ["/absent", "/size/deeper", "/a~1b~0c/9", "/absent#"])
def test_a_pointer_to_nothing_is_an_error(pointer: str) -> None:
    with pytest.raises(KeyError):
        resolved(FILE.value, pointer)


def test_text_keeps_to_its_place_in_a_table() -> None:
    fact = Fact("a | b\n*c*", "x.json")
    assert shown(fact, "text").endswith("a \\| b \\*c\\*\ue002")
    assert derived("length", fact).value == len("a | b\n*c*")
