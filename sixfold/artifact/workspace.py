"""Where a run leaves things, and how files appear: complete under their final name, or not at all."""

import glob
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sixfold.artifact.record_shapes import is_sound
from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError
from sixfold.recipes.recipe import Calibration

PARTIAL = ".partial"
"""Folder inside a variant's folder that holds unfinished work; a folder without a manifest is not an artifact."""
CALIBRATION = "calibration"
"""Folder of the statistics, beside the variants' folders."""


@dataclass(frozen=True)
class Workspace:
    """`root`/<model name>: everything made from one checkpoint."""

    root: Path
    model: str

    @property
    def folder(self) -> Path:
        return self.root / self.model

    def calibration(self, profile: Calibration) -> Path:
        """Folder of the statistics of one profile; a profile other than the default gets its own folder."""
        folder = self.folder / CALIBRATION
        if profile == Calibration():
            return folder
        return folder / f"profile-{digest_of(profile.model_dump(mode='json'))[:8]}"

    def decisions(self, variant: str) -> Path:
        return self.folder / CALIBRATION / "decisions" / variant

    def variant(self, suffix: str) -> Path:
        return self.folder / f"{self.model}-{suffix}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write under a temporary name beside `path`, fsync, rename: readers see the old file or the new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place, synced, when the context ends well.

    The temporary name is this process's own, so that two that write the same file do not write into each other's; what
    a killed process of this machine left is removed on the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.{platform.node()}-"
    for left in path.parent.glob(f"{glob.escape(mark)}*.tmp"):
        _remove_if_dead(left)
    temporary = path.with_name(f"{mark}{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_temporaries(folder: Path) -> None:
    """Remove the temporary names that killed processes of this machine left anywhere in `folder`, as far as the file
    system lets us: they say nothing of the files that are in place."""
    for left in folder.rglob(f".{'[0-9a-f]' * 16}.{glob.escape(platform.node())}-*.tmp"):
        with suppress(OSError):
            _remove_if_dead(left)


def _remove_if_dead(temporary: Path) -> None:
    if not _runs(temporary.name.removesuffix(".tmp").rpartition("-")[2]):
        temporary.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def write_if_changed(path: Path, data: bytes) -> None:
    """`write_atomically`, unless the file already holds `data`: what artifacts share keeps its time."""
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json_bytes(value))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Readable and deterministic: keys keep their order, so equal values give equal bytes."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any] | None:
    """None if the file is missing or damaged: both mean that what it would describe does not exist."""
    try:
        value = parse_json(path.read_bytes(), path.name)
    except (OSError, ValueError, SixfoldError):
        return None
    return value if isinstance(value, dict) and is_sound(path.name, value) else None


def digest_of(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
