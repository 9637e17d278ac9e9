"""The unpruned model of a checkpoint that `sixfold prune` made, where it is at hand.

The pruned folder's manifest.json names it by its fingerprint; run.json, which is not published, by its folder; and it
may lie beside the pruned folder under its own name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sixfold.artifact.workspace import read_json
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source

FOLDER = "original"
"""Key of the pruned folder's run.json: the folder that was pruned."""


@dataclass(frozen=True)
class Original:
    """What a pruned checkpoint says of the one that was pruned. revision: its commit on the Hub, "" of a folder."""

    name: str
    fingerprint: str
    revision: str


def named_original(pruned: Path) -> Original | None:
    """None where the folder is not of a checkpoint that `sixfold prune` made."""
    manifest = read_json(pruned / "manifest.json") or {}
    if manifest.get("variant") != "pruned":
        return None
    source = manifest["source"]
    return Original(str(manifest["model"]), str(source["fingerprint"]), str(source["revision"]))


def original_at_hand(pruned: Path) -> Source | None:
    """The original, opened; None where it is not on this machine, or is not as it was."""
    named = named_original(pruned)
    for folder in () if named is None else _places(pruned, named):
        try:
            found = open_source(folder)
            if named is not None and _is(found, named):
                return found
        except (SixfoldError, OSError):
            continue
    return None


def _places(pruned: Path, named: Original) -> Iterator[Path]:
    recorded = (read_json(pruned / "run.json") or {}).get(FOLDER)
    for folder in (*([Path(recorded)] if recorded else []), pruned.absolute().parent / named.name):
        if folder.is_dir() and folder.resolve() != pruned.resolve():
            yield folder


def _is(found: Source, named: Original) -> bool:
    """Of a commit on the Hub the fingerprint is another than of its folder in the cache, which its hash names."""
    folder = found.checkpoint.folder.absolute()
    if named.revision and folder.parent.name == "snapshots":
        return folder.name == named.revision
    return found.checkpoint.fingerprint == named.fingerprint
