"""Where each figure of a card comes from: a file beside the card, and how it is checked against the files it names.

README.figures.json is published with the card. One JSON object: schema; repositories: folder -> the repository on the
Hub that holds what `file` names there; unpublished: files that stay where the artifact was made; figures, one for each
figure on the card:

    shown   the text on the card      as      form of cards.facts.figures.FORMATS, and its arguments
    value   before it was formatted
    file    relative to the card; "sixfold:<path>" of a table of this project, "option:<name>" what a command was given
    at      JSON pointer of the value; "#" behind it: the name of the key itself
or, in place of `file` and `at`, of what was computed:
    rule    of cards.facts.figures.RULES    of      its arguments, each with file and at, or again with rule and of

A comment at the card's end names that file and its sha256, and holds what tells a person's edits from rendered text:
sections, heading -> digest of what was rendered under it (cards.model_card.hand_written), and the rendered tags.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cards.budget.gguf_config import tensor_bytes
from cards.facts.figures import FORMATS, RULES
from cards.facts.traced import resolved
from sixfold.errors import SixfoldError

FIGURES = "README.figures.json"
_HEAD = "<!-- figures"
_BLOCK = re.compile(rf"\n?{_HEAD}\n(.*?)\n-->\n?", re.DOTALL)
_READ = (1, 2)
"""Schemas of the comment; that of 1 held the figures too."""
_PROJECT = Path(__file__).parents[2]


def record(figures: Sequence[Mapping[str, Any]], repositories: Mapping[str, str]) -> str:
    """The text of README.figures.json. Each figure is on one line, so that diffs are readable.

    repositories: folder beside the card's -> hub id, of those that are published.
    """
    cited = sorted({name for figure in figures for name in _cited(figure) if name.startswith("../")})
    known = {folder: repo for folder, repo in repositories.items() if any(n.startswith(f"../{folder}/") for n in cited)}
    here = [name for name in cited if name.split("/")[1] not in known]
    lines = ",\n".join(json.dumps(figure, ensure_ascii=False) for figure in figures)
    head = json.dumps({"schema": 2, "repositories": known, "unpublished": here}, ensure_ascii=False)
    return f'{head[:-1]}, "figures": [\n{lines}\n]}}\n'


def _cited(figure: Mapping[str, Any]) -> Iterator[str]:
    if "rule" in figure:
        for part in figure["of"]:
            yield from _cited(part)
    else:
        yield figure["file"]


def block(record_text: str, sections: Mapping[str, str], tags: Sequence[str]) -> str:
    """The comment at the end of a card whose figures are in `record_text`."""
    named = {"file": FIGURES, "sha256": hashlib.sha256(record_text.encode()).hexdigest()}
    content = json.dumps({"schema": 2, **named, "sections": sections, "tags": list(tags)}, ensure_ascii=False)
    # "-->" in a value would end the comment early.
    escaped = content.replace("<", "\\u003c").replace(">", "\\u003e")
    return f"{_HEAD}\n{escaped}\n-->\n"


def without_block(card_text: str) -> str:
    return _BLOCK.sub("\n", card_text)


def read_block(card_text: str) -> dict[str, Any] | None:
    """None where the card was not rendered by this project, or its comment is damaged."""
    found = _BLOCK.search(card_text)
    try:
        content = json.loads(found[1]) if found else None
    except ValueError:
        return None
    return content if isinstance(content, dict) and content.get("schema") in _READ else None


def wrong_figures(card_text: str, folder: Path) -> tuple[str, ...]:
    """Figures that are not what the files in and around the card's folder say; () where all are."""
    named, path = read_block(card_text), folder / FIGURES
    if named is None or not path.is_file():
        return ("the card has no record of where its figures come from",)
    if named.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        return (f"{FIGURES} is not the record that the card was rendered with",)
    content = json.loads(path.read_bytes())
    body, files = without_block(card_text), _Files(folder)
    return tuple(problem for figure in content["figures"] for problem in _problems(figure, body, files))


def _problems(figure: Mapping[str, Any], body: str, files: "_Files") -> Iterator[str]:
    shown = figure["shown"]
    try:
        value = files.value_of(figure)
        form, *arguments = figure["as"]
        written = FORMATS[form](value, *arguments)
    except (KeyError, TypeError, ValueError, OSError, SixfoldError) as error:
        yield f"{shown!r} comes from {_place(figure)}, which cannot be computed ({error})"
        return
    if value != figure["value"] or written != shown:
        yield f"{shown!r} is {value!r} in {_place(figure)}"
    if shown not in body:
        yield f"{shown!r}, from {_place(figure)}, is not on the card any more"


def _content(path: Path) -> Any:
    """Of a GGUF file the bytes of each tensor."""
    if path.suffix == ".gguf":
        return tensor_bytes(path)
    text = path.read_text(encoding="utf-8")
    return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)


def _place(figure: Mapping[str, Any]) -> str:
    if "rule" in figure:
        return f"{figure['rule']} of {', '.join(_place(part) for part in figure['of'])}"
    return f"{figure['file']}#{figure['at']}"


class _Files:
    """Files around a card, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Any] = {}

    def value_of(self, figure: Mapping[str, Any]) -> Any:
        if "rule" in figure:
            return RULES[figure["rule"]](*(self.value_of(part) for part in figure["of"]))
        if figure["file"].startswith("option:"):
            return figure["value"]
        return resolved(self._content(figure["file"]), figure["at"])

    def _content(self, name: str) -> Any:
        if name not in self._read:
            own = name.startswith("sixfold:")
            path = _PROJECT / name.removeprefix("sixfold:") if own else self._folder / name
            self._read[name] = _content(path)
        return self._read[name]
