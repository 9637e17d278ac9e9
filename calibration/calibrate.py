"""One pass over the model: texts in, a folder of statistics out (sixfold.statistics.statistics says what is in it)."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from calibration.coverage_map import FILE as MAP
from calibration.coverage_map import coverage_map
from calibration.forward_pass.batches import BATCH_TOKENS, batched
from calibration.forward_pass.coverage import Coverage, coverage_from_json, coverage_of, coverage_to_json, starved_of
from calibration.forward_pass.layer_pass import dtype_of, run_pass
from calibration.forward_pass.memory import resources
from calibration.forward_pass.processes import run_on_devices
from calibration.forward_pass.unfinished import Reached
from calibration.from_imatrix import take_over
from calibration.imatrix import FILE as IMATRIX
from calibration.imatrix import write_imatrix
from calibration.texts.corpus import text_files
from calibration.texts.tokens import special_ids, token_batches
from sixfold.artifact.lock import clear_left, exclusive
from sixfold.artifact.manifest import State, file_record, run_name, state_of, versions
from sixfold.artifact.work_folder import check_source
from sixfold.artifact.workspace import PARTIAL, digest_of, sync_folder, write_atomically, write_if_changed, write_json
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Architecture, Linear
from sixfold.model.source import Source
from sixfold.name_lists import some
from sixfold.progress import Progress
from sixfold.recipes.recipe import Calibration
from sixfold.runner.available_memory import FREE, Allowed
from sixfold.runner.engine import HERE, Engine
from sixfold.statistics.importance_matrix import ImportanceMatrix, open_importance_matrix
from sixfold.statistics.statistics import MANIFEST, SCHEMA, Statistics, moe_of, open_statistics, starred

_LOCK = "calibration.lock"


@dataclass(frozen=True)
class Calibrated:
    """skipped: the folder was current. reasons: where it was not, what was missing or had changed. resumed: layers'
    files that an earlier run had finished."""

    statistics: Statistics
    skipped: bool
    reasons: tuple[str, ...]
    coverage: tuple[Coverage, ...]
    resumed: int = 0

    @property
    def history(self) -> tuple[str, ...]:
        """Sentences without a full stop that say why a pass was run, and whether all of it was."""
        if not self.resumed:
            return tuple(f"calibrated again: {reason}" for reason in self.reasons)
        layers = f"{self.resumed} layer{'s' if self.resumed > 1 else ''}"
        return (f"the calibration resumed after {layers} that an earlier run had finished",)


def calibration_inputs(source: Source, profile: Calibration) -> dict[str, Any]:
    """Everything that decides the statistics, but for the machine's float order."""
    return {
        "schema": SCHEMA,
        "source": {"fingerprint": source.checkpoint.fingerprint, "revision": source.checkpoint.revision},
        "profile": profile.model_dump(mode="json"),
        "texts": {file.name: file.digest for file in text_files(profile.texts)},
        "method": {"dtype": str(dtype_of(source)).removeprefix("torch."), "batch_tokens": BATCH_TOKENS},
        "versions": versions(("torch", "transformers")),
    }


def calibrate(
    source: Source,
    profile: Calibration,
    folder: Path,
    *,
    progress: Progress,
    allowed: Allowed = FREE,
    engine: Engine = HERE,
) -> Calibrated:
    """Statistics of every Linear's input over the profile's texts, in `folder`; nothing is run where it is current.

    engine: one that is away shares the batches among all of its GPUs; where it has none, the pass is run here.

    Raises SixfoldError where the texts are too small, the tokenizer is missing or another model's, the memory does not
    suffice, or transformers runs this family's layers or experts in a way that cannot be observed; with the profile's
    `imatrix`, where that is no importance matrix of this model.
    """
    if profile.imatrix is not None:
        return _from_imatrix(source, profile, open_importance_matrix(profile.imatrix), folder)
    inputs = calibration_inputs(source, profile)
    if _state(folder, inputs).name == "current":
        clear_left(folder / _LOCK, folder / PARTIAL)
        return _as_it_is(folder)
    with exclusive(folder / _LOCK, f"another process is calibrating into {folder}"):
        state = _state(folder, inputs)  # the process before this one may have done it all
        if state.name == "current":
            return _as_it_is(folder)
        return _calibrated(source, profile, folder, inputs, state.reasons, progress, allowed, engine)


def _state(folder: Path, inputs: Mapping[str, Any]) -> State:
    return state_of(folder, MANIFEST, inputs, begun=folder / PARTIAL)


def _as_it_is(folder: Path) -> Calibrated:
    statistics = open_statistics(folder)
    coverage = coverage_from_json(statistics.manifest["coverage"])
    _draw(statistics, coverage)
    return Calibrated(statistics, True, (), coverage)


def _calibrated(
    source: Source,
    profile: Calibration,
    folder: Path,
    inputs: Mapping[str, Any],
    reasons: tuple[str, ...],
    progress: Progress,
    allowed: Allowed,
    engine: Engine,
) -> Calibrated:
    """Runs the pass, or what is left of it, and puts everything in place, the manifest last."""
    started = time.time()
    work = folder / PARTIAL
    tokenizer = load_tokenizer(source.checkpoint.folder)
    tokens = token_batches(profile, tokenizer)
    batches = batched(tokens.ids, profile.seed, special_ids(tokenizer) if profile.special_tokens == "leave_out" else ())
    on = resources(source, profile, allowed, elsewhere=engine.gpus)
    launch: Callable[..., Reached] = partial(run_pass, device=torch.device(on.device))
    if on.processes > 1 or engine.gpus:
        where = engine if engine.gpus else HERE
        launch = partial(run_on_devices, device=on.device, size=on.processes, engine=where, resident=on.memory.host)
    reached = launch(source, batches, profile, work, key=digest_of(inputs), ahead=on.ahead, progress=progress)
    check_source(source.checkpoint, work)
    linears = [linear for linear in source.architecture.linears if linear.role != "other"]
    coverage = tuple(coverage_of(layer, routed, profile.min_tokens) for layer, routed in reached.routed.items())
    if profile.starved == "fail":
        _refuse_starved(coverage, profile)
    resumed = sum((work / name).stat().st_mtime < started for name in reached.files)
    _clear(folder)
    _put_in_place(folder, work, reached.files)
    manifest: dict[str, Any] = {
        **inputs,
        "model": source.checkpoint.name,
        "tokens": tokens.record,
        "sites": sites_of(linears),
        "moe": moe_layers(source.architecture, reached.routed, profile.min_tokens),
        "without_statistics": _without_statistics(source, linears),
        "coverage": coverage_to_json(coverage),
        "files": {name: asdict(record) for name, record in sorted(reached.files.items())},
    }
    with suppress(SixfoldError):  # no names in llama.cpp: exporting GGUF says so, and nothing else needs the file
        write_imatrix(Statistics(folder, manifest), source, folder / IMATRIX)
        manifest["files"][IMATRIX] = asdict(file_record(folder / IMATRIX))
    run = {
        "seconds": round(time.time() - started, 2),
        "device": on.device,
        "processes": on.processes,
        "memory": asdict(on.memory),
        "threads": torch.get_num_threads(),
        "modified_ns": {name: (folder / name).stat().st_mtime_ns for name in manifest["files"]},
    }
    write_json(folder / run_name(MANIFEST), run)
    write_json(folder / MANIFEST, manifest)
    shutil.rmtree(work)
    statistics = open_statistics(folder)
    _draw(statistics, coverage)
    return Calibrated(statistics, False, reasons, coverage, resumed)


def _refuse_starved(coverage: Sequence[Coverage], profile: Calibration) -> None:
    """After the pass is complete: the error must cover all layers at once."""
    starved = [layer for layer in coverage if layer.starved]
    if not starved:
        return
    worst = max(starved, key=lambda layer: len(layer.starved))
    seen = some([f"{expert} ({worst.tokens[expert]})" for expert in worst.starved])
    experts = sum(len(layer.starved) for layer in starved)
    raise SixfoldError(
        f"fewer than {profile.min_tokens} calibration tokens reached {experts} expert{'s' if experts > 1 else ''} in"
        f" {len(starved)} of {len(coverage)} layers, the worst of which is layer {worst.layer}: {seen}",
        "calibrate on more or other texts, or set calibration.starved to average or all_experts",
    )


def _from_imatrix(source: Source, profile: Calibration, matrix: ImportanceMatrix, folder: Path) -> Calibrated:
    inputs = {
        "schema": SCHEMA,
        "source": {"fingerprint": source.checkpoint.fingerprint, "revision": source.checkpoint.revision},
        "profile": profile.model_dump(mode="json"),
        "imatrix": matrix.record(),
        "versions": versions(()),
    }
    if _state(folder, inputs).name == "current":
        clear_left(folder / _LOCK, folder / PARTIAL)
        return _as_it_is(folder)
    with exclusive(folder / _LOCK, f"another process is calibrating into {folder}"):
        reasons = _state(folder, inputs).reasons
        work = folder / PARTIAL
        shutil.rmtree(work, ignore_errors=True)
        taken = take_over(matrix, source, work, profile.min_tokens)
        _clear(folder)
        _put_in_place(folder, work, taken["files"])
        write_atomically(folder / matrix.copy_name, matrix.path.read_bytes())
        taken["files"][matrix.copy_name] = asdict(file_record(folder / matrix.copy_name))
        times = {name: (folder / name).stat().st_mtime_ns for name in taken["files"]}
        write_json(folder / run_name(MANIFEST), {"modified_ns": times})
        write_json(folder / MANIFEST, {**inputs, "model": source.checkpoint.name, **taken})
        shutil.rmtree(work)
    statistics = open_statistics(folder)
    coverage = coverage_from_json(statistics.manifest["coverage"])
    _draw(statistics, coverage)
    return Calibrated(statistics, False, reasons, coverage)


def _draw(statistics: Statistics, coverage: tuple[Coverage, ...]) -> None:
    """The heat map beside the statistics, for models with experts; the manifest does not hash it."""
    if coverage:
        manifest = statistics.manifest
        picture = coverage_map(manifest["model"], coverage, manifest["profile"]["min_tokens"])
        write_if_changed(statistics.folder / MAP, picture.encode())


def sites_of(linears: Sequence[Linear]) -> dict[str, dict[str, Any]]:
    """The manifest's "sites": who reads each one, experts under "*"."""
    sites: dict[str, dict[str, Any]] = {}
    for linear in linears:
        entry = sites.setdefault(linear.site, {"layer": linear.layer, "experts": None, "linears": []})
        if linear.expert is not None:
            entry["experts"] = max(entry["experts"] or 0, linear.expert + 1)
        name = starred(linear.name, linear.expert)
        if name not in entry["linears"]:
            entry["linears"].append(name)
    return sites


def moe_layers(
    architecture: Architecture, routed: Mapping[int, tuple[int, ...]], min_tokens: int
) -> dict[str, dict[str, Any]]:
    """The manifest's "moe": where experts are, how many, and which saw too few tokens."""
    names = {moe_of(linear.site): linear.layer for linear in architecture.linears if linear.role == "expert"}
    names |= {stack.module: stack.layer for stack in architecture.stacks}
    return {
        name: {"layer": layer, "experts": len(routed[layer]), "starved": starved_of(routed[layer], min_tokens)}
        for name, layer in names.items()
        if layer is not None
    }


def _without_statistics(source: Source, linears: Sequence[Linear]) -> list[str]:
    """Tensors that transformers does not run, and Linears outside attention and MLP, which nothing is quantized of."""
    unobserved = {linear.weight for linear in source.architecture.linears} - {linear.weight for linear in linears}
    return sorted(unobserved | set(source.architecture.not_run))


def _clear(folder: Path) -> None:
    """The old manifest goes first: from here on the folder holds no calibration until a new one is written."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in (*folder.glob("layer-*.safetensors"), *folder.glob("imatrix*.*")):
        path.unlink()
    (folder / MAP).unlink(missing_ok=True)


def _put_in_place(folder: Path, work: Path, files: Iterable[str]) -> None:
    """Linked, so that a kill before the manifest is written costs nothing: the work folder is whole until then."""
    for name in files:
        try:
            (folder / name).hardlink_to(work / name)
        except OSError:  # a file system without links
            shutil.copy2(work / name, folder / name)
    sync_folder(folder)
