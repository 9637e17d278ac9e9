"""<model>/source/: what cards, reports and publishing must know about the checkpoint that artifacts were made from,
kept beside them, so that they can be rendered where the checkpoint is not.

source.json   name, hub (its id there, "" of a folder), revision, fingerprint, provenance (see
              sixfold.checkpoint.provenance), stated: the part of it that came from options, which is kept until other
              options are given
place.json    folder: where the checkpoint was on this machine, which is nobody else's business
config.json   the checkpoint's own, which a GGUF folder lacks
pruning/      manifest.json, plan.json and verification.json of a checkpoint that `sixfold prune` made
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sixfold.artifact.workspace import json_bytes, read_json, write_if_changed
from sixfold.boundary.yaml_text import parse_yaml
from sixfold.checkpoint.provenance import Provenance

if TYPE_CHECKING:
    from sixfold.checkpoint.checkpoint import Checkpoint

FOLDER = "source"
FILE = "source.json"
PLACE = "place.json"
PRUNING = "pruning"
_PRUNED_FILES = ("manifest.json", "plan.json", "verification.json")


def record_source(checkpoint: "Checkpoint", stated: Mapping[str, str], model_folder: Path) -> Provenance:
    """Write it, and return the provenance that cards are to state.

    stated: provenance fields that options give. If none do, those of an earlier run for this checkpoint are kept.
    """
    folder = model_folder / FOLDER
    before = read_json(folder / FILE) or {}
    if not stated and before.get("fingerprint") == checkpoint.fingerprint:
        stated = before["stated"]
    provenance = replace(checkpoint.provenance, **stated)
    record = {
        "schema": 1,
        "name": checkpoint.name,
        "hub": "" if Path(checkpoint.location).expanduser().is_dir() else checkpoint.location,
        "revision": checkpoint.revision,
        "fingerprint": checkpoint.fingerprint,
        "provenance": {key: value for key, value in asdict(provenance).items() if value},
        "stated": dict(stated),
        "language": _languages(checkpoint.folder / "README.md"),
    }
    write_if_changed(folder / FILE, json_bytes(record))
    write_if_changed(folder / PLACE, json_bytes({"folder": str(checkpoint.folder.absolute())}))
    write_if_changed(folder / "config.json", json_bytes(dict(checkpoint.config)))
    pruned = _is_pruned_folder(checkpoint.folder)
    for name in _PRUNED_FILES:
        if pruned and (checkpoint.folder / name).is_file():
            write_if_changed(folder / PRUNING / name, (checkpoint.folder / name).read_bytes())
        else:
            (folder / PRUNING / name).unlink(missing_ok=True)
    return provenance


def checkpoint_folder(model_folder: Path) -> Path | None:
    """Where the checkpoint was when its artifacts were made; None where that is not known or it is gone."""
    found = (read_json(model_folder / FOLDER / PLACE) or {}).get("folder")
    return Path(found) if found and Path(found).is_dir() else None


def _languages(card: Path) -> list[str]:
    """Codes in the front matter of a card; none where it has none, or cannot be read."""
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2) if card.is_file() else []
    try:
        fields = parse_yaml(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return []
    found = fields.get("language", []) if isinstance(fields, dict) else []
    return [code for code in (found if isinstance(found, list) else [found]) if isinstance(code, str)]


def _is_pruned_folder(folder: Path) -> bool:
    manifest: dict[str, Any] = read_json(folder / "manifest.json") or {}
    return manifest.get("variant") == "pruned"
