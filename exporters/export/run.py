"""Exports from beginning to end: skip what is current, decide and stream the others in one walk, put each in place, and
write its manifest last."""

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial as partial_of
from pathlib import Path
from typing import Any, cast

import torch

from exporters.export.batches import batches
from exporters.export.decisions import DecisionStore
from exporters.export.planning import carried_code, inputs_for, plan_of, prepare
from exporters.export.unit_work import Variant, decided, encoded
from exporters.protocol import ExternalExporter, Tokens
from exporters.registry import exporter_named
from exporters.rounding.device import device
from exporters.rounding.inputs import Inputs
from exporters.rounding.notes import few_tokens
from sixfold.artifact.manifest import FileRecord, artifact_bytes, described_anew, file_record, manifest_of, state_of
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.streaming.stream import MADE, Walked, write_files
from sixfold.artifact.streaming.walk import NARROW
from sixfold.artifact.streaming.writing import Writing, Written, singly
from sixfold.artifact.work_folder import (
    Made,
    begun_mark,
    check_source,
    clear_finished,
    locked,
    put_in_place,
    reclaim,
)
from sixfold.artifact.workspace import PARTIAL, Workspace, digest_of, json_bytes, read_json, write_atomically
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Recipe
from sixfold.runner.engine import HERE, Engine, Needs
from sixfold.runner.machine_speed import measured_speed
from sixfold.statistics.statistics import Statistics


@dataclass(frozen=True)
class Wanted:
    """statistics: of the recipe's calibration, None where it needs none. tokens: for external tools and for probes."""

    recipe: Recipe
    statistics: Statistics | None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Exported:
    """nbytes: its size (artifact_bytes). skipped: the artifact was current, no weight was written. reasons: why it was
    (re)done. described: whether the manifest changed, and with it what a card shows. took: as run.json says it, {}
    where nothing was done."""

    variant: str
    folder: Path
    manifest: str
    nbytes: int
    skipped: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    described: bool = True
    took: Mapping[str, Any] = field(default_factory=dict)


def export_all(
    source: Source,
    wanted: Sequence[Wanted],
    workspace: Workspace,
    *,
    threads: int,
    progress: Progress,
    memory: int | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    engine: Engine = HERE,
) -> list[Exported | Exception]:
    """What came of each of `wanted`, or what stopped it; that leaves the others alone. Whatever was finished by then is
    kept for the next run.

    memory: bytes of host memory to make do with, None for no limit. say: told where it takes several walks.
    engine: where layers are decided and units encoded.
    """
    results: dict[int, Exported | Exception] = {}
    begun: dict[int, _Begun] = {}
    with ExitStack() as locks:
        for number, want in enumerate(wanted):
            try:
                found = _begin(source, want, workspace, threads, progress, locks, engine)
                if isinstance(found, Exported):
                    results[number] = found
                else:
                    begun[number] = found
            except Exception as error:  # a defect in one format must not cost the others
                results[number] = error
        streamed = {number: one for number, one in begun.items() if one.native is not None}
        names = [one.wanted.recipe.name for one in streamed.values()]
        walked = _walk(source, list(streamed.values()), max(threads, engine.slots), progress, memory, say)
        written = dict(zip(streamed, walked.each, strict=True))
        for number, one in sorted(begun.items(), key=lambda item: item[1].native is None):  # what is written, first
            try:
                made = _run_external(source, one.wanted, one.partial) if one.native is None else None
                check_source(source.checkpoint, one.partial, workspace.decisions(one.wanted.recipe.name))
                if made is None:
                    made = _made(source, one, written[number].whole())
                took = {} if number not in written else _took(walked, written[number], names)
                results[number] = _finish(source, one, made, threads, took)
            except Exception as error:
                results[number] = error
    return [results[number] for number in range(len(wanted))]


def export(
    source: Source,
    recipe: Recipe,
    workspace: Workspace,
    statistics: Statistics | None,
    *,
    threads: int,
    progress: Progress,
    tokens: Tokens | None = None,
) -> Exported:
    """`export_all` of one. Raises what stopped it."""
    (result,) = export_all(source, [Wanted(recipe, statistics, tokens)], workspace, threads=threads, progress=progress)
    if isinstance(result, Exception):
        raise result
    return result


@dataclass(frozen=True)
class _Native:
    plan: ExportPlan
    store: DecisionStore
    known: Inputs | None
    writing: Writing


@dataclass(frozen=True)
class _Begun:
    """A variant that is to be made. native: None for an external tool."""

    wanted: Wanted
    inputs: Mapping[str, Any]
    folder: Path
    manifest: str
    reasons: tuple[str, ...]
    started: float
    partial: Path
    native: _Native | None


def _begin(
    source: Source,
    wanted: Wanted,
    workspace: Workspace,
    threads: int,
    progress: Progress,
    locks: ExitStack,
    engine: Engine,
) -> Exported | _Begun:
    recipe, statistics = wanted.recipe, wanted.statistics
    inputs = inputs_for(source, recipe, statistics)
    prepare(source, recipe, statistics, wanted.tokens, progress)
    plan = plan_of(source, recipe, statistics)
    folder = workspace.variant(recipe.suffix)
    if folder.resolve() == source.checkpoint.folder.resolve():
        raise SixfoldError(f"{recipe.name} would be written over its own source {folder}", "choose another OUT or NAME")
    manifest_name = plan.manifest if plan is not None else "manifest.json"
    state = state_of(folder, manifest_name, inputs, begun_mark(folder, manifest_name, recipe.name))
    if state.name == "current":
        clear_finished(folder / PARTIAL, recipe.name)
        recorded = read_json(folder / manifest_name) or {}
        changed = described_anew(recorded, inputs)
        if changed is not None:
            write_atomically(folder / manifest_name, json_bytes(changed))
        nbytes = artifact_bytes(recorded["files"])
        notes = tuple(recorded["notes"])
        return Exported(recipe.name, folder, manifest_name, nbytes, True, (), notes, described=changed is not None)
    started = time.time()
    partial = locks.enter_context(locked(folder / PARTIAL, recipe.name))
    native = None if plan is None else _native(source, wanted, workspace, plan, inputs, partial, threads, engine)
    return _Begun(wanted, inputs, folder, manifest_name, state.reasons, started, partial, native)


def _native(
    source: Source,
    wanted: Wanted,
    workspace: Workspace,
    plan: ExportPlan,
    inputs: Mapping[str, Any],
    partial: Path,
    threads: int,
    engine: Engine,
) -> _Native:
    recipe = wanted.recipe
    variant = Variant(source, recipe, wanted.statistics, threads)
    layers = frozenset(unit.layer for unit in plan.units if unit.layer is not None)
    store = DecisionStore(workspace.decisions(recipe.name), inputs, layers)
    mark = store.mark if layers else None
    key = digest_of([dict(inputs), mark, [(f.name, f.nbytes, len(f.header)) for f in plan.files]])
    reclaim(plan, partial, workspace.variant(recipe.suffix), key)
    known, given = variant.known, engine.share(variant)
    at_gpu = known is not None and known.device.type != "cpu"
    searched = getattr(variant.exporter, "searched", None)

    def decide(layer: int, checkpoint: Checkpoint) -> None:
        if not store.knows(layer):
            by = None if engine.away else checkpoint
            needs = Needs(cores=threads if searched else 1, gpus=float(searched is not None and _on_gpu()))
            store.record(layer, engine.call(decided, given, layer, by, needs=needs))

    def encode(
        units: Sequence[Unit], tensors: Sequence[Sequence[torch.Tensor]] | None
    ) -> Sequence[Sequence[torch.Tensor]]:
        decisions = {unit.layer: store.of_layer(unit.layer) for unit in units}
        needs = Needs(memory=_memory(source, units), gpus=1 / NARROW if at_gpu else 0)
        encoded_units: Sequence[Sequence[torch.Tensor]] = engine.call(
            encoded, given, units, tensors, decisions, needs=needs
        )
        return encoded_units

    writing = Writing(
        plan,
        partial,
        key,
        # Units that are rounded to nearest are the same in any company: they travel together.
        split=singly if known is None and not engine.away else partial_of(batches, source.checkpoint, device()),
        encode=encode,
        decide=decide,
        at_gpu=at_gpu,
        searched={layer: searched(source, recipe, layer) for layer in layers if searched and not store.knows(layer)},
        away=engine.away,
    )
    return _Native(plan, store, known, writing)


def _on_gpu() -> bool:
    return device().type != "cpu"


def _memory(source: Source, units: Sequence[Unit]) -> int:
    """Bytes that encoding units takes: what is read, and what is made of that in float32."""
    rows = ((source.checkpoint.named(part.name), part) for unit in units for part in unit.inputs)
    return (1 + MADE) * sum(t.nbytes * (part.stop - part.start) // max(1, *t.shape[:1]) for t, part in rows)


def _walk(
    source: Source,
    streamed: Sequence[_Begun],
    threads: int,
    progress: Progress,
    memory: int | None,
    say: Callable[[str], None],
) -> Walked:
    if not streamed:
        return Walked((), 0, 0, 0)
    names = {id(one.native.writing): one.wanted.recipe.name for one in streamed if one.native is not None}
    writings = [one.native.writing for one in streamed if one.native is not None]

    def in_groups(groups: Sequence[Sequence[Writing]]) -> None:
        listed = "; ".join(", ".join(names[id(writing)] for writing in group) for group in groups)
        say(f"memory does not suffice for all formats at once, so the checkpoint is read {len(groups)} times: {listed}")

    what = next(iter(names.values())) if len(names) == 1 else f"{len(names)} formats"
    with progress(what, sum(f.nbytes for writing in writings for f in writing.plan.files), "B") as advance:
        return write_files(
            writings, source.checkpoint, threads=threads, advance=advance, memory=memory, in_groups=in_groups
        )


def _made(source: Source, one: _Begun, records: Mapping[str, FileRecord]) -> Made:
    native, statistics = one.native, one.wanted.statistics
    assert native is not None
    texts = {name: FileRecord(len(data), _sha256_bytes(data)) for name, data in native.plan.texts.items()}
    notes = (
        native.plan.notes
        + carried_code(source.checkpoint)
        + native.store.notes
        + (few_tokens(statistics) if statistics is not None and native.known is not None else ())
    )
    used = None if native.known is None else native.known.device.type
    return Made(one.partial, {**records, **texts}, native.plan.texts, native.store.digest, notes, used)


def _took(walked: Walked, written: Written, formats: Sequence[str]) -> dict[str, Any]:
    """What run.json says of the walk that an artifact was made in, and of its own share of the work: seconds added up
    over threads. disk_share: of the walk's seconds, those that the disk alone takes, where it was measured."""
    nbytes = sum(file.bytes for each in walked.each for file in each.files.values())
    speed = measured_speed()
    share = speed.disk_seconds(walked.read_bytes, nbytes) / max(walked.seconds, 1e-6) if speed is not None else None
    return {
        "stages": {stage: round(of, 2) for stage, of in written.seconds.items()},
        "walk": {
            "formats": list(formats),
            "seconds": round(walked.seconds, 2),
            "read_seconds": round(walked.read_seconds, 2),
            "read_bytes": walked.read_bytes,
            "written_bytes": nbytes,
            "disk_share": None if share is None else round(share, 3),
        },
    }


def _finish(source: Source, one: _Begun, made: Made, threads: int, took: Mapping[str, Any]) -> Exported:
    recipe = one.wanted.recipe
    manifest = manifest_of(
        recipe.name, source.checkpoint.name, one.inputs, made.decisions, made.files, made.notes, made.device
    )
    put_in_place(one.folder, one.manifest, manifest, made, one.partial, one.started, threads, took)
    shutil.rmtree(one.partial)
    nbytes = artifact_bytes(manifest["files"])
    return Exported(recipe.name, one.folder, one.manifest, nbytes, False, one.reasons, made.notes, took=took)


def _run_external(source: Source, wanted: Wanted, partial: Path) -> Made:
    exporter = cast(ExternalExporter, exporter_named(wanted.recipe.exporter))
    work = partial / "external"
    shutil.rmtree(work, ignore_errors=True)  # such tools cannot resume; a half-written folder only misleads them
    work.mkdir(parents=True)
    notes = exporter.run(source, wanted.recipe, wanted.tokens, work)
    paths = sorted(path for path in work.rglob("*") if path.is_file())
    files = {str(p.relative_to(work)): file_record(p) for p in paths}
    return Made(work, files, {}, None, tuple(notes))


def _sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
