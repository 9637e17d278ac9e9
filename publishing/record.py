"""publishing.json in a model's folder: where it was last published to, and the cards that were sent.

What the Hub has for a card and we did not send was written by a person there.
"""

import hashlib
from pathlib import Path
from typing import Any

from sixfold.workspace import read_json, write_json

FILE = "publishing.json"


def last_org(root: Path) -> str:
    """ "" where the model was never published."""
    return str(_read(root).get("org", ""))


def was_sent(root: Path, repo: str, card: str) -> bool:
    return bool(_read(root).get("cards", {}).get(repo) == _digest(card))


def record_org(root: Path, org: str) -> None:
    write_json(root / FILE, {**_read(root), "org": org})


def record_card(root: Path, repo: str, card: str) -> None:
    known = _read(root)
    write_json(root / FILE, {**known, "cards": {**known.get("cards", {}), repo: _digest(card)}})


def _read(root: Path) -> dict[str, Any]:
    return read_json(root / FILE) or {}


def _digest(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()
