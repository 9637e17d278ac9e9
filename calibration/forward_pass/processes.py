"""The pass on several devices: one process for each, joined by torch.distributed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import torch
from torch import distributed

from calibration.forward_pass.batches import Batches
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.unfinished import Reached, read_reached
from sixfold.model.source import Source
from sixfold.progress import Progress, unseen
from sixfold.recipes.recipe import Calibration
from sixfold.runner.engine import HERE, Engine, Needs
from sixfold.runner.process_group import Team

_STORE = "processes"
_EVERY = 0.5
"""Seconds between two looks at how far others are."""


@dataclass(frozen=True)
class _Job:
    """What a process needs to run its part."""

    source: Source
    batches: Batches
    profile: Calibration
    work: Path
    key: str
    ahead: bool
    progress: Progress
    device: str
    size: int
    apart: bool


def run_on_devices(
    source: Source,
    batches: Batches,
    profile: Calibration,
    work: Path,
    *,
    key: str,
    device: str,
    size: int,
    progress: Progress,
    ahead: bool,
    engine: Engine = HERE,
    resident: int = 0,
) -> Reached:
    """calibration.forward_pass.layer_pass.run_pass in `size` processes that share the batches; process r runs on
    "cuda:r", or all on "cpu". The statistics are those of one process but for the order of float sums.

    engine: where the processes are begun. One that is away gives each a GPU or a core, wherever that is; where it loses
    one, all begin again after the last layer that they finished. resident: bytes of host memory that each takes.

    Raises what run_pass raises; SixfoldError where a process ends without an error of its own.
    """
    work.mkdir(parents=True, exist_ok=True)
    seen = unseen if engine.away else progress
    job = _Job(source, batches, profile, work, key, ahead, seen, device, size, engine.away)
    needs = Needs(memory=resident, gpus=1.0 if device == "cuda" else 0.0)
    with _layers_done(work, key, progress, source.architecture.layers) if engine.away else nullcontext():
        engine.together(_process, engine.share(job), size, needs)
    reached = read_reached(work, key)
    assert reached is not None  # the leader has written it
    return reached


def _process(rank: int, attempt: str, job: _Job) -> None:
    """attempt: what another one left is not to be taken for this one's."""
    device = torch.device(job.device)
    if device.type == "cuda":
        device = torch.device("cuda", rank % torch.cuda.device_count())  # of those that are this process's to see
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // job.size))
    store = job.work / f"{_STORE}{attempt}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    bound = device if device.type == "cuda" else None
    method = f"file://{store.absolute()}"
    distributed.init_process_group(backend, init_method=method, rank=rank, world_size=job.size, device_id=bound)
    try:
        run_pass(
            job.source,
            job.batches,
            job.profile,
            job.work,
            key=job.key,
            device=device,
            progress=job.progress if rank == 0 else unseen,
            ahead=job.ahead,
            team=Team(rank, job.size, job.apart),
        )
    finally:
        distributed.destroy_process_group()


@contextmanager
def _layers_done(work: Path, key: str, progress: Progress, layers: int) -> Iterator[None]:
    """While open, shows how far processes elsewhere are, by what they leave in the work folder."""
    stopped = Event()

    def follow(advance: Callable[[int], None]) -> None:
        shown = 0
        while not stopped.wait(_EVERY):
            reached = read_reached(work, key)
            finished = 0 if reached is None else len(reached.files)
            advance(max(0, finished - shown))
            shown = max(shown, finished)

    with progress("calibrating", layers + 1, "layers") as advance:
        follower = Thread(target=follow, args=(advance,), daemon=True)
        follower.start()
        try:
            yield
        finally:
            stopped.set()
            follower.join()
