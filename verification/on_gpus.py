"""Variants shared out among the GPUs of this machine: a process for each GPU verifies its share side by side."""

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sixfold.model.source import Source
from sixfold.progress import Progress, unseen
from sixfold.runner.engine import HERE, Needs
from verification.forecast import runs_of_recipe
from verification.judge import judge_all
from verification.result import Verification, manifest_of

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class _Job:
    """shares: paths, by rank. on_gpus: whether each has a GPU; a process that asks for their number itself may have
    begun to see all of them. folder: for what ranks find."""

    source: Source
    shares: Sequence[Sequence[Path]]
    on_gpus: bool
    folder: Path
    progress: Progress


def judged_on_gpus(paths: Sequence[Path], source: Source, progress: Progress, processes: int) -> list[Verification]:
    """`judge_all`, in so many processes: process r uses the r-th GPU that this one sees, or all use the CPU.

    Each runs the source as well, and what is measured of a variant does not depend on the others. The progress shown is
    that of the first. Raises as `judge_all` does, or SixfoldError where a process ends without an error of its own.
    """
    shares = shared_out({path: _runs(path) for path in paths}, processes)
    with TemporaryDirectory(prefix="sixfold-") as folder:
        job = _Job(source, shares, torch.cuda.is_available(), Path(folder), progress)
        HERE.together(_process, job, len(shares), Needs())
        found = [one for rank in range(len(shares)) for one in pickle.loads(_found_by(job, rank).read_bytes())]
    by_path = {verification.path: verification for verification in found}
    return [by_path[path] for path in paths]


def shared_out(runs: Mapping[Path, int], processes: int) -> list[list[Path]]:
    """runs: of each variant. Those with the most first, each to the process that has the fewest so far; no share is
    empty."""
    shares: list[list[Path]] = [[] for _ in range(min(processes, len(runs)))]
    counts = [0] * len(shares)
    for path in sorted(runs, key=lambda path: -runs[path]):
        fewest = counts.index(min(counts))
        shares[fewest].append(path)
        counts[fewest] += 1 + runs[path]  # it is read and compared as well
    return shares


def _runs(path: Path) -> int:
    manifest = manifest_of(path)
    recipe: Mapping[str, Any] = {} if manifest is None else manifest.get("recipe") or {}
    gated = (recipe.get("gates") or {}).get("max_kl_ratio") is not None
    return runs_of_recipe(str(recipe.get("scheme")), str(recipe.get("exporter")), gated=gated)


def _process(rank: int, _attempt: str, job: _Job) -> None:
    if job.on_gpus:
        os.environ[_VISIBLE] = _nth_gpu(rank)
    torch.set_num_threads(max(1, torch.get_num_threads() // len(job.shares)))
    found = judge_all(job.shares[rank], job.source, job.progress if rank == 0 else unseen)
    _found_by(job, rank).write_bytes(pickle.dumps(found))


def _nth_gpu(number: int) -> str:
    """As CUDA is told: of those that this process may see, by number or by UUID."""
    seen = os.environ.get(_VISIBLE)
    return str(number) if seen is None else seen.split(",")[number].strip()


def _found_by(job: _Job, rank: int) -> Path:
    return job.folder / f"{rank}.pickle"
