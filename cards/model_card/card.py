"""README.md of each of a model's folders, rendered from the facts beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cards.facts.model_facts import ModelFacts
from cards.facts.origins import FIGURES, block, record
from cards.model_card.context import context_of, license_file_in, names_of
from cards.model_card.front_matter import problems
from cards.model_card.hand_written import changed_sections, digests, front_matter_text, is_ours, kept_fields, kept_text
from cards.model_card.images import bring_charts
from cards.model_card.metadata import metadata
from cards.model_card.rendering import render
from sixfold.artifact.workspace import write_atomically, write_if_changed

CARD = "README.md"
BEFORE = "README.before.md"
"""Where an old card is saved whose text rendering would lose."""

ALL_OF_IT = "all of it"
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Written:
    """One card after `write_cards`. changed: whether its text is another than before. problems: what the Hub would
    refuse. lost: sections whose changes are only in the file `before` now, (ALL_OF_IT,) of a card from elsewhere."""

    folder: Path
    changed: bool
    problems: tuple[str, ...]
    lost: tuple[str, ...]
    before: str

    @property
    def path(self) -> Path:
        return self.folder / CARD


@dataclass(frozen=True)
class Rendered:
    """text: of README.md. figures: of README.figures.json."""

    text: str
    figures: str


def card_of(model: ModelFacts, folder: Path, owner: str = "", old: str | None = None) -> Rendered:
    """The card of one of the model's folders as it should be now, with what a person wrote into the present one.

    owner: user or organization whose repositories <owner>/<model>-<suffix> the card links to, "" where none is known.
    old: a card in place of the present one, "" for none.
    """
    context = context_of(model, folder, owner)
    body, figures = render("variant.md.j2", context)
    names = names_of(model, folder, owner)
    languages = names.source.language
    fields = metadata(context["mine"], names, license_file_in(folder), languages)
    repositories = {other.name: f"{owner}/{other.name}" for other in model.folders if owner}
    return assembled(fields, body, record(figures, repositories), read_card(folder / CARD) if old is None else old)


def assembled(fields: Mapping[str, Any], body: str, figures: str, old: str) -> Rendered:
    """Front matter and text, with what a person wrote in the old card ("" for none), beside the record of its
    figures."""
    sections, tags = digests(body), list(fields["tags"])
    kept = kept_fields(old, fields) if is_ours(old) else fields
    text = f"{front_matter_text(kept)}{kept_text(old, body)}\n{block(figures, sections, tags)}"
    return Rendered(text, figures)


def write_cards(model: ModelFacts) -> tuple[Written, ...]:
    """Render every card of the model, and write those that changed."""
    return tuple(render_card(model, folder) for folder in model.folders)


def render_card(model: ModelFacts, folder: Path) -> Written:
    """One of them, with the charts that it shows."""
    bring_charts(model, folder)
    return write_card(folder, card_of(model, folder))


def write_card(folder: Path, card: Rendered) -> Written:
    """A card that a person edited in rendered parts, or that is not ours, is kept as README.before.md."""
    path, text = folder / CARD, card.text
    old = read_card(path)
    changed = text != old
    lost = (ALL_OF_IT,) if UNREADABLE in old else lost_sections(old)
    before = ""
    if changed and lost:
        before = _keep_before(folder)
    write_if_changed(folder / FIGURES, card.figures.encode())
    if changed:
        write_atomically(path, text.encode())
    return Written(folder, changed, problems(text), lost if changed else (), before)


def lost_sections(old: str) -> tuple[str, ...]:
    """What would be lost if a card were rendered again."""
    if not old:
        return ()
    return changed_sections(old) if is_ours(old) else (ALL_OF_IT,)


def is_current(model: ModelFacts, folder: Path) -> bool:
    card = card_of(model, folder)
    return (read_card(folder / CARD), read_card(folder / FIGURES)) == (card.text, card.figures)


def read_card(path: Path) -> str:
    """ "" where there is none; bytes that are no UTF-8 as U+FFFD."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _keep_before(folder: Path) -> str:
    """Beside what was kept before: nothing that a person wrote is lost by rendering twice. Returns the file's name."""
    data = (folder / CARD).read_bytes()
    kept = sorted(folder.glob("README.before*.md"))
    for path in kept:
        if path.read_bytes() == data:
            return path.name
    name = f"README.before-{len(kept) + 1}.md" if kept else BEFORE
    write_atomically(folder / name, data)
    return name
