"""All stages of the job for a drawn checkpoint of one depth, with their time and their peaks of memory."""

import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_size.drawn_checkpoint import drawn_source
from benchmarks.real_size.on_disk import forget, written
from benchmarks.real_size.sink import sink
from calibration.calibrate import calibrate
from calibration.forward_pass.memory import predict
from cli.commands.card import render_cards
from cli.options import load_formats
from cli.results.forecast import forecast
from cli.results.verdicts import artifact_of
from exporters.export.kernels_ahead import compile_ahead
from exporters.export.planning import inputs_for, needs_statistics, plan_all
from exporters.export.run import Exported, Wanted, export_all
from sixfold.artifact.manifest import state_of
from sixfold.artifact.source_record import record_source
from sixfold.artifact.workspace import Workspace
from sixfold.checkpoint.carried_files import carried_files
from sixfold.model.source import Source
from sixfold.recipes.recipe import Recipe
from sixfold.runner.available_memory import available_memory
from sixfold.runner.machine_speed import MachineSpeed, measured_speed
from verification.stored_result import judged_all

_READERS = 8


@dataclass(frozen=True)
class Job:
    """config: of the model. folder: for everything; emptied at the end. texts: a folder with a tokenizer and what else
    a checkpoint has beside its weights. layers: of the config's. formats: () for calibration alone, whose statistics
    are let go of then. keep: artifacts' weights are, so that they can be verified. on_disk: the checkpoint is written
    first, and no stage finds anything in the page cache."""

    config: Path
    folder: Path
    texts: Path
    layers: int
    experts: int | None
    formats: tuple[str, ...]
    settings: tuple[str, ...]
    keep: bool
    on_disk: bool


@dataclass
class Stage:
    """cpu: seconds of all threads together. host: the largest anonymous memory of the process, device: the most that
    tensors took of a GPU; halves: host in the first and in the second half of the time; in bytes. parts: seconds by
    what the stage says of its progress."""

    name: str
    seconds: float = 0.0
    cpu: float = 0.0
    host: int = 0
    device: int = 0
    halves: tuple[int, int] = (0, 0)
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        begun = time.monotonic()
        try:
            yield lambda amount: None
        finally:
            self.parts[description] = self.parts.get(description, 0.0) + time.monotonic() - begun


@dataclass
class Found:
    """tensors, nbytes: of the checkpoint. written: bytes of all artifacts. foretold: seconds by stage, and what each is
    bound by; limits: seconds of all that goes on side by side in each; memory: of the pass, foretold. verified: variant
    -> whether it passed. sha256: of artifacts' files."""

    layers: int
    tensors: int = 0
    nbytes: int = 0
    written: int = 0
    stages: list[Stage] = field(default_factory=list)
    foretold: dict[str, tuple[float, str]] = field(default_factory=dict)
    limits: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    verified: dict[str, bool] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def run(job: Job) -> dict[str, Any]:
    """`Found`, as data. Raises what stopped a stage."""
    model, out = job.folder / "model", job.folder / "out"
    model.mkdir(parents=True, exist_ok=True)
    for name in carried_files({path.name for path in job.texts.iterdir()}):
        shutil.copy(job.texts / name, model / name)
    found = Found(job.layers)
    try:
        with _stage(found, "description"):
            source = drawn_source(job.config, model, layers=job.layers, experts=job.experts)
        if job.on_disk:
            source = written(source, job.folder / "written" / "model")
        tensors = source.checkpoint.as_stored.tensors.values()
        found.tensors, found.nbytes = len(tensors), sum(tensor.nbytes for tensor in tensors)
        recipes = load_formats(job.formats or ("nvfp4-gb10",), job.settings)
        workspace = Workspace(out, source.checkpoint.name)
        _foretell(found, source, recipes, job)
        record_source(source.checkpoint, {}, workspace.folder)
        _made(found, job, source, recipes, workspace)
    finally:
        shutil.rmtree(job.folder)
    return asdict(found)


def _foretell(found: Found, source: Source, recipes: Sequence[Recipe], job: Job) -> None:
    with _stage(found, "plan"):
        planned = plan_all(source, recipes)
    for entry in planned:
        if entry.refusal is not None:
            raise entry.refusal
    if job.formats:
        compile_ahead(planned)
    profiles = {entry.recipe.calibration for entry in planned if needs_statistics(entry.recipe)}
    for profile in profiles:
        found.memory = asdict(predict(source, profile, on_gpu=torch.cuda.is_available(), ahead=True))
    speed = measured_speed()
    if speed is not None:
        for stage in forecast(source, planned, speed if job.on_disk else _reading(source, speed)):
            if stage.key == "calibration" or job.formats:
                found.foretold[stage.key] = (stage.seconds, stage.bound_by)
                found.limits[stage.key] = [dict(parts) for parts in stage.beside]


def _reading(source: Source, speed: MachineSpeed) -> MachineSpeed:
    """The speed of a machine whose disk reads as fast as weights are drawn: those of the first decoder layer, as the
    runner reads them."""
    tensors = [t for t in source.checkpoint.as_stored.tensors.values() if ".layers.0." in t.name]
    held = [torch.empty(t.shape, dtype=torch.bfloat16) for t in tensors]
    names = [t.name for t in tensors]
    with ThreadPoolExecutor(_READERS) as threads:
        for _ in range(2):  # the second time, memory was touched before
            begun = time.perf_counter()
            list(threads.map(source.checkpoint.as_stored.read_into, names, held))
            seconds = time.perf_counter() - begun
    return replace(speed, read=sum(tensor.nbytes for tensor in held) / seconds)


def _made(found: Found, job: Job, source: Source, recipes: Sequence[Recipe], workspace: Workspace) -> None:
    statistics = {}
    profiles = dict.fromkeys(recipe.calibration for recipe in recipes if needs_statistics(recipe))
    with nullcontext() if job.formats else sink(workspace.root, statistics=True):
        for profile in profiles:
            _begin(job)
            with _stage(found, "calibration") as stage:
                done = calibrate(source, profile, workspace.calibration(profile), progress=stage.progress)
            statistics[profile] = done.statistics
    if not job.formats:
        return
    wanted = [
        Wanted(recipe, statistics[recipe.calibration] if needs_statistics(recipe) else None) for recipe in recipes
    ]
    _begin(job)
    with nullcontext() if job.keep else sink(workspace.root):
        with _stage(found, "export") as stage:
            results = export_all(
                source, wanted, workspace, threads=_cores(), progress=stage.progress, memory=available_memory()
            )
    made = [_whole(result) for result in results]
    found.written = sum(one.nbytes for one in made)
    if job.keep:
        _begin(job)
        with _stage(found, "verification") as stage:
            verdicts = judged_all([artifact_of(one.folder, one.manifest) for one in made], source, stage.progress)
        found.verified = {one.variant: verdict["passed"] for one, verdict in zip(made, verdicts, strict=True)}
    with _stage(found, "cards and report"):
        render_cards(workspace.folder, quiet=True)
    with _stage(found, "status"):
        for want, one in zip(wanted, made, strict=True):
            state = state_of(one.folder, one.manifest, inputs_for(source, want.recipe, want.statistics))
            if state.name != "current":
                raise SystemExit(f"{one.variant} is {state.name}: {', '.join(state.reasons)}")
            found.sha256 |= _hashes(one)


def _begin(job: Job) -> None:
    """Before a stage: on the disk, nothing is in the page cache."""
    if job.on_disk:
        forget(job.folder)


def _whole(result: Exported | Exception) -> Exported:
    if isinstance(result, Exception):
        raise result
    return result


def _hashes(one: Exported) -> Mapping[str, str]:
    from sixfold.artifact.workspace import read_json

    manifest = read_json(one.folder / one.manifest) or {"files": {}}
    return {f"{one.folder.name}/{name}": record["sha256"] for name, record in manifest["files"].items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _stage(found: Found, name: str) -> Iterator[Stage]:
    """Adds to what the stage took before."""
    stage = next((stage for stage in found.stages if stage.name == name), None) or Stage(name)
    found.stages = [*(other for other in found.stages if other is not stage), stage]
    gc.collect()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    stopped = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not stopped.wait(0.02):
            seen.append(_anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begun, cpu = time.monotonic(), time.process_time()
    try:
        yield stage
    finally:
        stage.seconds += time.monotonic() - begun
        stage.cpu += time.process_time() - cpu
        stopped.set()
        watcher.join()
        seen.append(_anonymous())
        stage.host = max(stage.host, *seen)
        half = len(seen) // 2
        stage.halves = max(seen[:half], default=0), max(seen[half:])
        stage.device = max(stage.device, torch.cuda.max_memory_allocated()) if on_gpu else 0
        print(f"{name} of {found.layers} layers: {stage.seconds:.1f} s", file=sys.stderr, flush=True)


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
