"""publishing.json in a model's folder: where it was last published to, and the cards that were sent.

What differs on the Hub from the card that was sent was written by a person there.
"""

from pathlib import Path
from typing import Any

from sixfold.artifact.workspace import read_json, write_json

FILE = "publishing.json"


def last_org(root: Path) -> str:
    """ "" where the model was never published."""
    return str(_read(root).get("org", ""))


def sent_card(root: Path, repo: str) -> str:
    """The card that was last sent from here, "" where none was."""
    return str(_read(root).get("cards", {}).get(repo, ""))


def record_org(root: Path, org: str) -> None:
    write_json(root / FILE, {**_read(root), "org": org})


def record_card(root: Path, repo: str, card: str) -> None:
    known = _read(root)
    write_json(root / FILE, {**known, "cards": {**known.get("cards", {}), repo: card}})


def _read(root: Path) -> dict[str, Any]:
    return read_json(root / FILE) or {}
