"""Unfinished work and how it becomes an artifact: locked, and put in place all at once, also after a kill in between.

A half-written file is resumed by stream.py and concurrent_file.py.
"""

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sixfold.artifact.lock import clear_left, exclusive
from sixfold.artifact.manifest import FileRecord, is_projector, run_name
from sixfold.artifact.plan import ExportPlan
from sixfold.artifact.workspace import PARTIAL, json_bytes, read_json, sha256_of, write_atomically, write_if_changed
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError

_REPLACED = "replaced-manifest.json"
"""Where the manifest of an artifact is kept while it is replaced: a rerun must still know which files it listed."""


@dataclass(frozen=True)
class Made:
    """Finished work, still in the partial folder `where`; texts are in memory. device: that errors were compensated on
    ("cpu", "cuda"), None where none were."""

    where: Path
    files: Mapping[str, FileRecord]
    texts: Mapping[str, bytes]
    decisions: str | None
    notes: tuple[str, ...]
    device: str | None = None


@contextmanager
def locked(partial: Path, variant: str) -> Iterator[Path]:
    """`partial`/variant, for this process alone; `partial` goes at the end if nothing is left in it.

    Raises SixfoldError where another process is at work in it.
    """
    busy = f"another process is exporting {variant} into {partial.parent}"
    with exclusive(_lock(partial, variant), busy):
        work = partial / variant
        work.mkdir(exist_ok=True)
        yield work
    with suppress(OSError):
        partial.rmdir()


def clear_finished(partial: Path, variant: str) -> None:
    """Remove what is left of the work on an artifact that is whole: its run was killed between manifest and end."""
    clear_left(_lock(partial, variant), partial / variant)
    with suppress(OSError):
        partial.rmdir()


def _lock(partial: Path, variant: str) -> Path:
    return partial / f"{variant}.lock"


def check_source(checkpoint: Checkpoint, *made: Path) -> None:
    """Raises SixfoldError where the source changed while it was read. The folders `made` of it go: no later run may
    go on from what is partly of another checkpoint."""
    try:
        checkpoint.check_unchanged()
    except SixfoldError:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def reclaim(plan: ExportPlan, partial: Path, folder: Path, key: str) -> None:
    """Take back files that an earlier run, killed while putting them in place, had already moved."""
    for file in plan.files:
        note = read_json(partial / f"{file.name}.json")
        moved = folder / file.name
        if note and note.get("key") == key and "sha256" in note and not (partial / file.name).exists():
            if moved.is_file() and moved.stat().st_size == file.nbytes and sha256_of(moved) == note["sha256"]:
                moved.replace(partial / file.name)


def put_in_place(
    folder: Path,
    manifest_name: str,
    manifest: Mapping[str, Any],
    made: Made,
    partial: Path,
    started: float,
    threads: int,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Move finished files over the old ones. The manifest goes first and comes last: between, there is no artifact.

    more: what else run.json keeps, by its keys there.
    """
    replaced = partial / _REPLACED
    if (folder / manifest_name).is_file():
        (folder / manifest_name).replace(replaced)
    old = read_json(replaced) or {"files": {}}
    for name in old["files"]:
        if name not in made.files and not _listed_elsewhere(folder, manifest_name, name):
            (folder / name).unlink(missing_ok=True)
    for name in made.files:
        if name in made.texts:
            write_if_changed(folder / name, made.texts[name])
        elif is_projector(name) and _is_there(folder / name, made.files[name]):
            (made.where / name).unlink()  # left as it is for others, who know it by its time
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (made.where / name).replace(folder / name)
    run = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 2),
        "threads": threads,
        "peak_rss_bytes": _peak_rss(),
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "modified_ns": {name: (folder / name).stat().st_mtime_ns for name in made.files},
        **more,
    }
    write_atomically(folder / run_name(manifest_name), json_bytes(run))
    write_atomically(folder / manifest_name, json_bytes(manifest))


def _listed_elsewhere(folder: Path, manifest_name: str, name: str) -> bool:
    """Whether another artifact of the folder has the file too."""
    others = (path for path in folder.glob("*manifest.json") if path.name != manifest_name)
    return any(name in (read_json(path) or {}).get("files", {}) for path in others)


def _is_there(path: Path, record: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == record.bytes and sha256_of(path) == record.sha256


def begun_mark(folder: Path, manifest_name: str, variant: str) -> Path:
    """What exists once the export was begun: GGUF files share a folder, which says nothing of one of them."""
    return folder if manifest_name == "manifest.json" else folder / PARTIAL / variant


def _peak_rss() -> int:
    """Largest resident set of this process so far, in bytes (macOS counts in bytes, Linux in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
