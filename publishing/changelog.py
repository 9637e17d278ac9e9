"""CHANGELOG.md of a repository: what each release changed and why, from the manifests before and after.

An entry begins with "## v<number> (<date>)"; the newest comes first. Everything else in the file is kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sixfold.artifact.manifest import artifact_bytes, changed_inputs
from sixfold.artifact.verification_record import content_digest
from sixfold.name_lists import some
from sixfold.sizes import size

TITLE = "# Changelog"
_ENTRY = re.compile(r"^## v(\d+)\b", re.MULTILINE)
_OUTCOMES = ("schema", "variant", "model", "decisions", "notes", "files")
"""Keys of a manifest that record outputs, not inputs."""
_LONGEST = 60


@dataclass(frozen=True)
class Step:
    """One artifact of a repository, before and after. before: None where it is new."""

    before: Mapping[str, Any] | None
    after: Mapping[str, Any]

    @property
    def is_change(self) -> bool:
        """Whether its bytes, or inputs that decide them, changed; a new description alone is not a change."""
        if self.before is None:
            return True
        return content_digest(self.before) != content_digest(self.after) or bool(_reasons(self.before, self.after))


def latest_version(changelog: str) -> int:
    """Number of the newest release; 0 where there was none."""
    return max((int(number) for number in _ENTRY.findall(changelog)), default=0)


def with_entry(changelog: str, entry: str) -> str:
    """The text with the entry before all others, under its title."""
    if not changelog.strip():
        return f"{TITLE}\n\n{entry}"
    first = _ENTRY.search(changelog)
    if first is None:
        return f"{changelog.rstrip()}\n\n{entry}"
    return f"{changelog[: first.start()]}{entry}\n{changelog[first.start() :]}"


def entry_of(version: int, date: str, steps: Sequence[Step]) -> str:
    """Markdown of one release. date: YYYY-MM-DD. steps: those that are changes are listed."""
    lines = [f"## v{version} ({date})", ""]
    for step in steps:
        if step.is_change:
            lines += _first(step.after) if step.before is None else _again(step.before, step.after)
    return "\n".join(lines) + "\n"


def _first(manifest: Mapping[str, Any]) -> list[str]:
    files = manifest["files"]
    what = f"{manifest['recipe']['title']}; {size(artifact_bytes(files))} in {_count(len(files), 'file')}"
    made = f"made of {manifest['model']} by sixfold {manifest['versions']['sixfold']}"
    return [f"- `{manifest['variant']}` is new: {what}, {made}."]


def _again(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = before["files"], after["files"]
    groups = {
        "changed": [name for name in new if name in old and new[name] != old[name]],
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    told = "; ".join(f"{_count(len(names), 'file')} {word} ({some(names)})" for word, names in groups.items() if names)
    sizes = f"{size(artifact_bytes(old))} before, {size(artifact_bytes(new))} now" if told else "its files are the same"
    reasons = _reasons(before, after) or ["no input changed: the same inputs gave other bytes"]
    return [
        f"- `{after['variant']}` was made again: {told}{'; ' if told else ''}{sizes}.",
        *(f"  - Why: {reason}." for reason in reasons),
    ]


def _reasons(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Which inputs changed, one phrase each."""
    inputs = {key: after.get(key) for key in {**before, **after} if key not in _OUTCOMES}
    return [_reason(key, _value(before, key), _value(after, key)) for key in changed_inputs(before, inputs)]


def _reason(key: str, old: Any, new: Any) -> str:
    if key == "source.fingerprint":
        return f"the source checkpoint changed (fingerprint {_short(old)} before, {_short(new)} now)"
    if key == "statistics":
        return f"the calibration statistics changed ({_short(old)} before, {_short(new)} now)"
    if key.startswith("versions."):
        return f"{key.removeprefix('versions.')} {_short(old)} before, {_short(new)} now"
    return f"`{key}` was {_short(old)} and is {_short(new)}"


def _value(manifest: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; keys of libraries have no dots."""
    found: Any = manifest
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _short(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,}", value):
        return value[:12]
    text = "unset" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
