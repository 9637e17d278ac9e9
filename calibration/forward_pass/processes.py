"""The pass on several devices: one process for each, joined by torch.distributed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from calibration.forward_pass.batches import Batches
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.unfinished import Reached, read_reached
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress, unseen
from sixfold.recipes.recipe import Calibration
from sixfold.runner.process_group import Team

_STORE = "processes"


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
) -> Reached:
    """calibration.forward_pass.layer_pass.run_pass in `size` processes that share the batches; process r runs on
    "cuda:r", or all on "cpu". The statistics are those of one process but for the order of float sums.

    Raises what run_pass raises; SixfoldError where a process ends without an error of its own.
    """
    work.mkdir(parents=True, exist_ok=True)
    (work / _STORE).unlink(missing_ok=True)
    job = _Job(source, batches, profile, work, key, ahead, progress, device, size)
    failures = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        spawn(_process, (job, failures), nprocs=size)
    except (ProcessRaisedException, ProcessExitedException) as error:
        if not failures.empty():
            raise SixfoldError(*failures.get()) from error
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise SixfoldError(
            f"a calibration process on {device} ended early ({reason})", "run it again: it resumes"
        ) from error
    finally:
        (work / _STORE).unlink(missing_ok=True)
    reached = read_reached(work, key)
    assert reached is not None  # the leader has written it
    return reached


def _process(rank: int, job: _Job, failures: Any) -> None:
    device = torch.device(job.device, rank) if job.device == "cuda" else torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // job.size))
    store = f"file://{(job.work / _STORE).absolute()}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    bound = device if device.type == "cuda" else None
    distributed.init_process_group(backend, init_method=store, rank=rank, world_size=job.size, device_id=bound)
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
            team=Team(rank, job.size),
        )
    except SixfoldError as error:
        failures.put((error.what, error.remedy))
        raise
    finally:
        distributed.destroy_process_group()
