"""What publishing would change on the Hub, file by file, before anything is changed."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from publishing.changelog import Step, entry_of, latest_version, with_entry
from publishing.hub.remote import CARD, CHANGELOG, FIGURES, GITATTRIBUTES, Remote, RemoteFile
from publishing.publication import Publication, git_oid

Kind = Literal["new", "changed", "unchanged", "deleted", "kept"]


@dataclass(frozen=True)
class Change:
    """kind: "deleted" is a file of an earlier release that this one has no more; "kept" one that others added."""

    name: str
    kind: Kind
    bytes: int


@dataclass(frozen=True)
class Plan:
    """One repository. remote: None where it is to be created. card, figures, changelog: whole texts, figures
    "" for none. entry: what this release
    adds to the changelog, "" where nothing is new. version: of the release afterwards."""

    publication: Publication
    remote: Remote | None
    card: str
    figures: str
    changelog: str
    entry: str
    version: int
    changes: tuple[Change, ...]

    @property
    def repo(self) -> str:
        return self.publication.repo

    @property
    def to_send(self) -> tuple[str, ...]:
        return tuple(change.name for change in self.changes if change.kind in ("new", "changed"))

    @property
    def to_delete(self) -> tuple[str, ...]:
        return tuple(change.name for change in self.changes if change.kind == "deleted")

    @property
    def bytes_to_send(self) -> int:
        return sum(change.bytes for change in self.changes if change.kind in ("new", "changed"))

    @property
    def is_done(self) -> bool:
        """Whether main matches the local files."""
        return self.remote is not None and not self.to_send and not self.to_delete

    @property
    def tag(self) -> str:
        return f"v{self.version}"

    @property
    def is_tagged(self) -> bool:
        return self.remote is not None and self.tag in self.remote.tags

    def card_diff(self, readable: Callable[[str], str]) -> str:
        """Lines of the card that would change. readable: a card's text without its record of origins."""
        before = readable(self.remote.card if self.remote else "")
        lines = difflib.unified_diff(
            before.splitlines(), readable(self.card).splitlines(), "README.md on the Hub", "README.md", lineterm="", n=1
        )
        return "\n".join(lines)

    def not_here(self) -> tuple[str, ...]:
        """Variants on the Hub that are in neither of our manifests: the card, written from ours, cannot list them."""
        known = {a.variant for a in self.publication.artifacts} | set(self.publication.others)
        there = self.remote.manifests.values() if self.remote else ()
        return tuple(str(manifest["variant"]) for manifest in there if manifest["variant"] not in known)


def plan_of(publication: Publication, remote: Remote | None, card: str, figures: str, date: str) -> Plan:
    """date: of the release, YYYY-MM-DD."""
    before = remote.manifests if remote else {}
    changelog = remote.changelog if remote else ""
    latest = latest_version(changelog)
    steps = [Step(before.get(a.manifest_name) if latest else None, a.manifest) for a in publication.artifacts]
    entry = entry_of(latest + 1, date, steps) if any(step.is_change for step in steps) else ""
    text = with_entry(changelog, entry) if entry else changelog
    texts = {CARD: card, CHANGELOG: text} | ({FIGURES: figures} if figures else {})
    changes = _changes(publication, remote, texts)
    return Plan(publication, remote, card, figures, text, entry, latest + bool(entry), changes)


def _changes(publication: Publication, remote: Remote | None, texts: Mapping[str, str]) -> tuple[Change, ...]:
    there: Mapping[str, RemoteFile] = remote.files if remote else {}
    changes = []
    for name, file in publication.files.items():
        kind: Kind = "new" if name not in there else "unchanged" if file.is_same(there[name]) else "changed"
        changes.append(Change(name, kind, file.bytes))
    for name, text in texts.items():
        data = text.encode()
        same = name in there and git_oid(data) == there[name].oid
        changes.append(Change(name, "new" if name not in there else "unchanged" if same else "changed", len(data)))
    stale = _stale(publication, remote.manifests if remote else {})
    for name, record in there.items():
        if name not in publication.files and name not in texts and name != GITATTRIBUTES:
            changes.append(Change(name, "deleted" if name in stale else "kept", record.bytes))
    return tuple(sorted(changes, key=lambda change: change.name))


def _stale(publication: Publication, before: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """What the present manifests' predecessors listed and no manifest lists any more."""
    replaced = {a.manifest_name for a in publication.artifacts}
    was = {name for manifest in replaced & set(before) for name in before[manifest]["files"]}
    return was - {name for manifest in set(before) - replaced for name in before[manifest]["files"]}
