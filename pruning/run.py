"""Make a pruned checkpoint: skip what is current, stream, put in place, write the manifest last."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.apply import VARIANT
from sixfold.errors import SixfoldError
from sixfold.manifest import FileRecord, manifest_of, state_of, versions
from sixfold.placing import Made, clear_partial, locked, put_in_place, reclaim
from sixfold.plan import ExportPlan
from sixfold.progress import Progress
from sixfold.source import Source
from sixfold.stream import Encode, write_files
from sixfold.workspace import PARTIAL, digest_of, read_json

_LIBRARIES = ("sixfold", "torch")


@dataclass(frozen=True)
class Pruned:
    """skipped: the folder was current, no weight was written. reasons: why it was made again."""

    folder: Path
    nbytes: int
    skipped: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def inputs_of(source: Source, export: ExportPlan, plan_digest: str) -> dict[str, Any]:
    """Everything that decides the bytes of the pruned folder."""
    return {
        "source": {"fingerprint": source.checkpoint.fingerprint, "revision": source.checkpoint.revision},
        "plan": plan_digest,
        "texts": {name: _sha256(data) for name, data in export.texts.items()},
        "versions": {name: number for name, number in versions().items() if name in _LIBRARIES},
    }


def prune(
    source: Source,
    export: ExportPlan,
    encode: Encode,
    plan_digest: str,
    folder: Path,
    *,
    threads: int,
    progress: Progress,
) -> Pruned:
    """Write `export` into `folder`; encode makes the units that are no copies.

    Raises SixfoldError with cause and remedy; what was finished is kept for a rerun.
    """
    inputs = inputs_of(source, export, plan_digest)
    state = state_of(folder, export.manifest, inputs)
    if state.name == "current":
        recorded = read_json(folder / export.manifest) or {}
        nbytes = sum(record["bytes"] for record in recorded["files"].values())
        return Pruned(folder, nbytes, True, (), tuple(recorded["notes"]))
    _refuse_foreign(folder, export)
    started = time.time()
    with locked(folder / PARTIAL, VARIANT) as partial:
        key = digest_of([inputs, [(f.name, f.nbytes) for f in export.files]])
        reclaim(export, partial, folder, key)
        with progress("pruning", sum(f.nbytes for f in export.files), "B") as advance:
            records = write_files(export, source.checkpoint, encode, partial, key=key, threads=threads, advance=advance)
        texts = {name: FileRecord(len(data), _sha256(data)) for name, data in export.texts.items()}
        made = Made(partial, {**records, **texts}, export.texts, None, export.notes)
        manifest = manifest_of(VARIANT, source.checkpoint.name, inputs, None, made.files, made.notes)
        put_in_place(folder, export.manifest, manifest, made, partial, started, threads)
    clear_partial(folder / PARTIAL, VARIANT)
    nbytes = sum(record.bytes for record in made.files.values())
    return Pruned(folder, nbytes, False, state.reasons, made.notes)


def _refuse_foreign(folder: Path, export: ExportPlan) -> None:
    """Raises SixfoldError where the folder holds weights that this command did not write."""
    ours: Mapping[str, Any] = (read_json(folder / export.manifest) or {}).get("files", {})
    if not (folder / PARTIAL).is_dir():
        foreign = [path.name for path in sorted(folder.glob("*.safetensors")) if path.name not in ours]
        if foreign:
            raise SixfoldError(
                f"{folder} holds {foreign[0]}, which is not of a pruned checkpoint made here", "choose another --out"
            )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
