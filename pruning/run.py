"""Make a pruned checkpoint: skip what is current, stream, put in place, write the manifest last."""

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pruning.anatomy import Anatomy, dissect
from pruning.apply import HEAL, PICTURE, VARIANT, export_plan, select
from pruning.choosing.plan_file import FILE as PLAN
from pruning.choosing.plan_file import PruningPlan
from pruning.healing.heal import VERSION as HEALING_VERSION
from pruning.healing.heal import disk_bytes, heal
from pruning.healing.healed_weights import HealedWeights
from pruning.healing.record import FILE as HEALING
from pruning.healing.record import record_text
from pruning.healing.refitted import check_refitted
from pruning.healing.text import Text
from pruning.model_size import model_size
from pruning.mtp import Mtp
from pruning.origin import provenance_of
from pruning.proof.proof import prove
from pruning.proof.structure import check_structure
from pruning.proof.verdict import current_verdict, verdict_of, write_verdict
from pruning.pruned_view import pruned_view
from sixfold import __version__
from sixfold.artifact.manifest import FileRecord, manifest_of, state_of
from sixfold.artifact.original_model import FOLDER
from sixfold.artifact.plan import ExportPlan
from sixfold.artifact.streaming.stream import write_files
from sixfold.artifact.streaming.writing import Writing, one_by_one, singly
from sixfold.artifact.work_folder import Made, check_source, locked, put_in_place, reclaim
from sixfold.artifact.workspace import PARTIAL, digest_of, json_bytes, read_json, write_if_changed
from sixfold.checkpoint.provenance import FILE as PROVENANCE
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.sizes import size

_HEALING = "healing"
"""Work folder of refitted weights, until they are in their place."""
_WORDS = (PLAN, PICTURE, PROVENANCE)
"""Files that describe the weights and change none of their bytes."""


@dataclass(frozen=True)
class Pruned:
    """skipped: the folder was current, no weight was written. reasons: why it was made again."""

    folder: Path
    nbytes: int
    skipped: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def export_of(source: Source, anatomy: Anatomy, plan: PruningPlan, mtp: Mtp, name: str) -> ExportPlan:
    """What will be written for a result of that name, to the byte; reads no weights."""
    provenance = provenance_of(source.checkpoint, plan, name)
    return export_plan(source, anatomy, plan, folder=name, mtp=mtp, provenance=provenance)


def prune(
    source: Source,
    anatomy: Anatomy,
    plan: PruningPlan,
    mtp: Mtp,
    folder: Path,
    *,
    threads: int,
    progress: Progress,
    text: Text | None = None,
) -> Pruned:
    """Write the pruned checkpoint into `folder`, whose name it gets.

    text: that kept experts are refitted to where the plan says that they are.
    Raises SixfoldError with cause and remedy; what was finished by then is kept for the next run.
    """
    export = export_of(source, anatomy, plan, mtp, folder.resolve().name)
    inputs = _inputs(source, export, plan)
    state = state_of(folder, export.manifest, inputs)
    if state.name == "current":
        recorded = _described_anew(folder, export)
        nbytes = sum(record["bytes"] for record in recorded["files"].values())
        return Pruned(folder, nbytes, True, (), tuple(recorded["notes"]))
    _refuse_foreign(source, folder, export)
    _check_room(export, folder, 0 if text is None else disk_bytes(source, text.tokens))
    started = time.time()
    with locked(folder / PARTIAL, VARIANT) as partial:
        key = digest_of([inputs, [(f.name, f.nbytes) for f in export.files]])
        reclaim(export, partial, folder, key)
        healed = None
        if plan.healing is not None and text is not None:
            view = pruned_view(source, anatomy, plan, mtp)
            device, work = _device(), partial / _HEALING
            found = heal(source, view, anatomy.layers, text, work, key=key, device=device, progress=progress)
            record = record_text(found, text, device.type)
            export = replace(export, texts={**export.texts, HEALING: record})
            healed = HealedWeights(work)
        encode = select(anatomy, plan, healed)
        with progress("pruning", sum(f.nbytes for f in export.files), "B") as advance:
            writing = Writing(export, partial, key, singly, one_by_one(encode))
            (written,) = write_files([writing], source.checkpoint, threads=threads, advance=advance).each
        check_source(source.checkpoint, partial)
        records = written.whole()
        texts = {name: FileRecord(len(data), _sha256(data)) for name, data in export.texts.items()}
        made = Made(partial, {**records, **texts}, export.texts, None, export.notes)
        on = None if healed is None else _device().type
        manifest = manifest_of(VARIANT, source.checkpoint.name, inputs, None, made.files, made.notes, on)
        place = {FOLDER: str(source.checkpoint.folder.absolute())}
        put_in_place(folder, export.manifest, manifest, made, partial, started, threads, place)
        shutil.rmtree(partial)
    nbytes = sum(record.bytes for record in made.files.values())
    return Pruned(folder, nbytes, False, state.reasons, made.notes)


def verify(
    source: Source,
    anatomy: Anatomy,
    plan: PruningPlan,
    mtp: Mtp,
    folder: Path,
    texts: Mapping[str, Sequence[torch.Tensor]] | None,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """verification.json of a folder that `prune` made, written where it is not there yet.

    texts: held-out windows of token ids by domain; None leaves out what must run the models. Raises SixfoldError where
    the folder's structure is wrong, or refitting changed what it should not have.
    """
    found = current_verdict(folder)
    if found is not None and (texts is None or found["masked"] is not None):
        return found
    pruned, structure = check_structure(folder, source)
    refitted = None
    plain, healed = pruned, None
    if plan.healing is not None:
        plain, healed = pruned_view(source, anatomy, plan, mtp), pruned
        refitted = check_refitted(pruned, plain, dissect(pruned), progress)
    proof = None
    if texts is not None:
        device = _device()
        proof = prove(source, plain, anatomy, plan.kept, texts, healed=healed, device=device, progress=progress)
    sizes = model_size(source, anatomy), model_size(pruned, dissect(pruned))
    verdict = verdict_of(folder, *sizes, structure, proof, refitted)
    write_verdict(folder, verdict)
    return verdict


def _inputs(source: Source, export: ExportPlan, plan: PruningPlan) -> dict[str, Any]:
    """Everything that decides the bytes of the pruned folder."""
    return {
        "source": {"fingerprint": source.checkpoint.fingerprint, "revision": source.checkpoint.revision},
        "plan": plan.digest,
        "texts": {name: _sha256(data) for name, data in export.texts.items() if name not in _WORDS},
        "versions": {"sixfold": __version__},
        **({} if plan.healing is None else {"healing": {"version": HEALING_VERSION}}),
    }


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _described_anew(folder: Path, export: ExportPlan) -> dict[str, Any]:
    """The manifest of a current folder, whose descriptions are updated; no weight is written."""
    manifest = read_json(folder / export.manifest) or {}
    for name in _WORDS:
        write_if_changed(folder / name, export.texts[name])
        manifest["files"][name] = {"bytes": len(export.texts[name]), "sha256": _sha256(export.texts[name])}
    manifest["notes"] = list(export.notes)
    write_if_changed(folder / export.manifest, json_bytes(manifest))
    return manifest


def _refuse_foreign(source: Source, folder: Path, export: ExportPlan) -> None:
    """Raises SixfoldError where the folder holds weights that this command did not write."""
    if folder.exists() and folder.resolve() == source.checkpoint.folder.resolve():
        raise UsageError(f"{folder} is the checkpoint that is to be pruned", "choose another --out")
    ours: Mapping[str, Any] = (read_json(folder / export.manifest) or {}).get("files", {})
    foreign = [path.name for path in sorted(folder.glob("*.safetensors")) if path.name not in ours]
    if foreign and not (folder / PARTIAL).is_dir():
        raise SixfoldError(f"{folder} holds {foreign[0]}, which pruning did not write", "choose another --out")


def _check_room(export: ExportPlan, folder: Path, meanwhile: int) -> None:
    """Raises SixfoldError where the disk is too small. meanwhile: bytes that healing takes besides, as the refitted
    weights do once more. What an unfinished run left counts as room."""
    present = sum(path.stat().st_blocks * 512 for path in (folder / PARTIAL / VARIANT).rglob("*"))
    twice = sum(tensor.nbytes for tensor in export.tensors if tensor.encoding == HEAL)
    needed = export.nbytes + twice + meanwhile - present
    root = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise SixfoldError(
            f"{size(needed)} are to be written to {folder}, which has {size(free)} free",
            "free some space, or choose another --out",
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
