"""What a person wrote into a card, and how it survives when the card is rendered again.

Kept are: text between `<!-- yours: NAME -->` and `<!-- /yours -->`, wherever it is; entire sections (from one `## `
heading to the next) that the renderer did not make; fields of the front matter that it does not render; and tags that
were added. A rendered section that a person changed is rendered again: `changed_sections` names it, so that nothing is
lost silently.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from cards.facts.origins import read_block, without_block
from cards.model_card.front_matter import fields, split
from cards.model_card.metadata import MANAGED
from sixfold.artifact.workspace import digest_of

_SLOT = re.compile(r"<!-- yours: (?P<name>[^\n]*?) -->\n(?P<text>.*?)<!-- /yours -->", re.DOTALL)
_NOTES = "<!-- yours: notes -->"
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True)
class Section:
    """heading: the line, "" before the first. text: with the heading, up to the next."""

    heading: str
    text: str

    @property
    def digest(self) -> str:
        """Of the text without what a person may write in it."""
        return digest_of(_SLOT.sub("", self.text).split())[:16]


def sections_of(body: str) -> list[Section]:
    """A card's Markdown, without front matter and origins. What follows the last slot is a section of its own, so that
    a section added at the end stays after the rendered ones."""
    found: list[tuple[str, list[str]]] = [("", [])]
    fenced = yours = False
    for line in body.splitlines(keepends=True):
        fenced ^= bool(_FENCE.match(line))
        if not fenced and not yours and (line.startswith("## ") or line.strip() == _NOTES):
            found.append((line.strip(), []))
        yours = line.startswith("<!-- yours: ") or (yours and line.strip() != "<!-- /yours -->")
        found[-1][1].append(line)
    return [Section(heading, "".join(lines)) for heading, lines in found]


def digests(body: str) -> dict[str, str]:
    return {section.heading: section.digest for section in sections_of(body)}


def is_ours(card_text: str) -> bool:
    """Whether this project rendered the card, so that a person's edits can be recognized."""
    return read_block(card_text) is not None


def changed_sections(card_text: str) -> tuple[str, ...]:
    """Headings of rendered sections that somebody changed outside the marked places ("the introduction" for what stands
    before the first heading); () of a card that is as it was rendered."""
    written = (read_block(card_text) or {}).get("sections", {})
    now = digests(_body(card_text))
    changed = [heading for heading, digest in written.items() if now.get(heading, digest) != digest]
    gone = [heading for heading in written if heading not in now]
    return tuple(heading.removeprefix("## ") or "the introduction" for heading in [*changed, *gone])


def kept_fields(old_card: str, rendered: Mapping[str, Any]) -> dict[str, Any]:
    """The rendered fields, with those that a person added, and tags that a person added after the rendered ones."""
    old = fields(old_card)
    added = {key: value for key, value in old.items() if key not in MANAGED}
    written = (read_block(old_card) or {}).get("tags", [])
    before = old.get("tags") if isinstance(old.get("tags"), list) else []
    extra = [tag for tag in before or [] if tag not in written and tag not in rendered["tags"]]
    return {**rendered, "tags": [*rendered["tags"], *extra], **added}


def kept_text(old_card: str, rendered: str) -> str:
    """The rendered Markdown, with what a person wrote in the old card in its places."""
    if not is_ours(old_card):
        return _with(sections_of(rendered), {})
    old = sections_of(_body(old_card))
    written = (read_block(old_card) or {}).get("sections", {})
    slots = {found["name"]: found["text"] for section in old for found in _SLOT.finditer(section.text)}
    text = _SLOT.sub(lambda found: _filled(found, slots), rendered)
    known = {found["name"] for found in _SLOT.finditer(rendered)}
    behind: dict[str, list[str]] = {}
    place = ""
    for section in old:
        if section.heading in written:
            place = section.heading
            extra = [found[0] for found in _SLOT.finditer(section.text) if found["name"] not in known]
        else:
            extra = [section.text.strip()]
        behind.setdefault(place, []).extend(extra)
    return _with(sections_of(text), behind)


def front_matter_text(values: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _body(card_text: str) -> str:
    return without_block(split(card_text)[1])


def _filled(found: re.Match[str], slots: Mapping[str, str]) -> str:
    text = slots.get(found["name"], found["text"])
    return f"<!-- yours: {found['name']} -->\n{text}<!-- /yours -->"


def _with(rendered: Sequence[Section], behind: Mapping[str, Sequence[str]]) -> str:
    """Pieces behind the sections that they followed; where such a section is no more, before the closing notes."""
    headings = [section.heading for section in rendered]
    orphans = [piece for heading, pieces in behind.items() if heading not in headings for piece in pieces]
    parts = []
    for section in rendered:
        if section.heading == _NOTES:
            parts += [f"{piece}\n\n" for piece in orphans]
        parts.append(section.text.rstrip("\n") + "\n\n")
        parts += [f"{piece}\n\n" for piece in behind.get(section.heading, ())]
    return "".join(parts).rstrip("\n") + "\n"
