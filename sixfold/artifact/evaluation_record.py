"""evaluation.json as those read it who did not write it: whether it speaks of the artifact, and whether its gates hold.

evaluation/result.py documents the file and writes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sixfold.artifact.verification_record import content_digest
from sixfold.artifact.workspace import read_json

FILE = "evaluation.json"
SPEED = "speed.json"
SCHEMA = 1
GATES = ("max_more_looping", "max_fewer_ended")
"""Of a recipe's gates, those on answers: largest differences to the baseline."""


def evaluation_name(manifest_name: str, file: str = FILE) -> str:
    """manifest.json -> evaluation.json; X.gguf.manifest.json -> X.gguf.evaluation.json."""
    return manifest_name.removesuffix("manifest.json") + file


def stored_evaluation(folder: Path, manifest_name: str, file: str = FILE) -> dict[str, Any] | None:
    """Beside an artifact, if it is of the files that the manifest lists."""
    manifest = read_json(folder / manifest_name)
    return None if manifest is None else evaluation_of(folder / evaluation_name(manifest_name, file), manifest)


def evaluation_of(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    found = read_json(path) or {}
    return found if (found.get("artifact") or {}).get("content") == content_digest(manifest) else None
