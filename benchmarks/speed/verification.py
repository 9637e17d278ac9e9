"""Seconds that verification takes, stage by stage and for each decoder layer, of all variants of a model together.

    sixfold export MODEL all-formats --no-verify --out FOLDER
    python -m benchmarks.speed.verification MODEL FOLDER [--apart] [--gpus 2]

What earlier runs of the source have left in FOLDER is deleted first. --apart: each variant by itself, which then shares
with the others only what it finds in that folder. --gpus: shared out among so many, a process for each, of which the
table has the whole time alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cli.results.verdicts import rows_in
from sixfold.artifact.workspace import Workspace
from sixfold.model.source import Source, open_source
from sixfold.progress import Progress
from verification.judge import judge_all
from verification.measure import cache_of
from verification.on_gpus import judged_on_gpus
from verification.result import Verification


@dataclass
class Stages:
    """seconds, cpu: by what each stage says of itself to whoever shows its progress. steps: when each part of it was
    done."""

    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    steps: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        begun, spent = time.monotonic(), time.process_time()
        try:
            yield lambda amount: self.steps.setdefault(description, []).append(time.monotonic())
        finally:
            for found, took in ((self.seconds, time.monotonic() - begun), (self.cpu, time.process_time() - spent)):
                found[description] = found.get(description, 0.0) + took
            print(f"{description}: {self.seconds[description]:.1f} s", file=sys.stderr, flush=True)

    def of_a_layer(self, description: str, layers: int) -> float:
        """Seconds from the first part of a stage to the last, which are as many in every layer: what is done once in a
        run, before the first, is not in it."""
        steps = self.steps[description]
        return (steps[-1] - steps[0]) / max(1, len(steps) - 1) * len(steps) / layers


def judged(paths: list[Path], source: Source, progress: Progress, gpus: int) -> list[Verification]:
    return judged_on_gpus(paths, source, progress, gpus) if gpus > 1 else judge_all(paths, source, progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--gpus", type=int, default=1)
    options = parser.parse_args()
    source = open_source(options.model)
    paths = [path for _, path, _ in rows_in(Workspace(options.folder, source.checkpoint.name).folder)]
    for kept in cache_of(paths[0]).glob("*"):
        kept.unlink()
    stages = Stages()
    begun, spent = time.monotonic(), time.process_time()
    for together in [[path] for path in paths] if options.apart else [paths]:
        for verification in judged(together, source, stages.progress, options.gpus):
            sound = "sound" if verification.passed else f"failed: {verification.failures[0].what}"
            kl = verification.divergence.as_run.mean_kl if verification.divergence is not None else float("nan")
            print(f"{verification.path.name}: {sound}, mean KL {kl:.5f}", flush=True)
    stages.seconds["all"], stages.cpu["all"] = time.monotonic() - begun, time.process_time() - spent
    named = sum(seconds for stage, seconds in stages.seconds.items() if stage != "all")
    stages.seconds["everything else"] = stages.seconds["all"] - named
    stages.cpu["everything else"] = 2 * stages.cpu["all"] - sum(stages.cpu.values())
    layers = source.architecture.layers
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    print(f"\n{len(paths)} variants {'one by one' if options.apart else 'together'}, {layers} layers, {where}\n")
    print("| stage | seconds | seconds a layer | CPU seconds |\n|---|---:|---:|---:|")
    for stage, seconds in sorted(stages.seconds.items(), key=lambda item: item[0] == "all"):
        print(f"| {stage} | {seconds:.1f} | {seconds / layers:.2f} | {stages.cpu[stage]:.1f} |")
    for stage in (stage for stage in ("comparing and running",) if stage in stages.steps):
        print(f"\n{stage}, of it {stages.of_a_layer(stage, layers):.2f} s in each layer")
    if torch.cuda.is_available():
        print(f"\npeak of device memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
