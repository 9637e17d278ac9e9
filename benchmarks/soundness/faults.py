"""Whether anything is lost to a kill, to a second run beside it, or to a full disk.

Usage: python -m benchmarks.soundness.faults [MODEL] [--stages STAGE ...] [--kills N] [--full N] [--processes N]

Runs each stage (calibrate, export, prune, verify; all of them without --stages) undisturbed, then N times killed with
SIGKILL: half of the kills before a file operation of the stage drawn at random, half at a time drawn at random, every
fifth with a second, equal run started beside it. Then N times on a file system of a size at which one of its writes
fails, and once more when there is room again (tmpfs; needs root). The same command must then end well and leave what
the undisturbed run left: the same files, of the same sha256, and nothing else. A full disk must be one sentence. Prints
each failure with its number, which makes it again, and the counts.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from cli.main import run

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "minimax-m2-4.6m"
_SMALL = ("calibration.samples=8", "calibration.length=128", "calibration.sample_rows=32")
_PER_RUN = ("run.json", ".log", "verification.json", "README.md", "README.figures.json", "decisions.json")
"""Ends of the names of files that may differ between two runs: times, what is told of them, and marks of a run."""

_IMPORTED = [f"cli.commands.{name}" for name in ("calibrate", "export", "prune", "verify")] + [
    "transformers.models.minimax_m2.modeling_minimax_m2",
]
"""What every run imports; imported once, in a process that every run is a fork of."""
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod"}


@dataclass(frozen=True)
class Stage:
    """before, command: words of the command line, {out} for the folder. before: what has to be there."""

    name: str
    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Undisturbed:
    """files: digests by name. operations: on files. seconds: of the run. nbytes: that it added to what was there."""

    files: dict[str, str]
    operations: int
    seconds: float
    before: Path
    nbytes: int


@dataclass(frozen=True)
class Ended:
    code: int
    text: str


@dataclass(frozen=True)
class Running:
    """text: what it prints, on either stream."""

    process: ForkServerProcess
    text: "tempfile._TemporaryFileWrapper[bytes]"

    def ended(self) -> Ended:
        self.process.join()
        self.text.seek(0)
        return Ended(self.process.exitcode or 0, self.text.read().decode())


def stages(model: Path) -> tuple[Stage, ...]:
    settings = tuple(f"--set={key}" for key in _SMALL)
    export = ("export", str(model), "fp8", "awq", "gguf-q4_k_m", "--out", "{out}", "--threads", "1", *settings)
    nearest = (
        "export",
        str(model),
        "nvfp4",
        "--out",
        "{out}",
        "--threads",
        "1",
        "--no-verify",
        "--set=rounding=nearest",
    )
    variant = f"{{out}}/{model.name}/{model.name}-NVFP4"
    return (
        Stage("calibrate", ("calibrate", str(model), "--out", "{out}", *settings)),
        Stage("export", (*export, "--no-verify"), (("calibrate", str(model), "--out", "{out}", *settings),)),
        Stage("prune", ("prune", str(model), "--artifacts", "{out}", "--ratio", "0.25", *settings)),
        Stage("verify", ("verify", variant, "--against", str(model)), (nearest,)),
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--stages", nargs="+")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--full", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted is unmounted
    failed = 0
    for stage in stages(options.model.absolute()):
        if options.stages is None or stage.name in options.stages:
            failed += _all_of(stage, options.kills, options.full, options.processes)
    return int(failed > 0)


def _all_of(stage: Stage, kills: int, full: int, processes: int) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        whole = undisturbed(stage, Path(scratch))
        print(f"{stage.name}: {whole.operations} file operations, {whole.seconds:.1f} s, {len(whole.files)} files")
        with ThreadPoolExecutor(processes) as pool:
            killed = list(pool.map(lambda n: _told(killed_once(stage, whole, Path(scratch), n)), range(kills)))
            filled = list(pool.map(lambda n: _told(filled_once(stage, whole, Path(scratch), n / full)), range(full)))
    print(
        f"{stage.name}: {killed.count('')} of {kills} kills and {filled.count('')} of {full} full disks without a loss"
    )
    return len(killed) + len(filled) - killed.count("") - filled.count("")


def _told(problem: str) -> str:
    if problem:
        print(problem, flush=True)
    return problem


def undisturbed(stage: Stage, scratch: Path) -> Undisturbed:
    before, out = scratch / "before", scratch / "whole"
    before.mkdir()
    for command in stage.before:
        _checked(_run(command, before))
    shutil.copytree(before, out, symlinks=True)
    started = time.monotonic()
    ended = _checked(_run(stage.command, out))
    seconds = time.monotonic() - started
    operations = int(ended.text.rpartition("operations: ")[2].split()[0])
    return Undisturbed(digests(out), operations, seconds, before, _size(out) - _size(before))


def killed_once(stage: Stage, whole: Undisturbed, scratch: Path, number: int) -> str:
    """What was wrong; "" where nothing was."""
    rng, out = random.Random(number), scratch / f"killed-{number}"
    shutil.copytree(whole.before, out, symlinks=True)
    at_an_operation, with_another = number % 2 == 0, number % 5 == 4
    running = _start(stage.command, out, rng.randrange(1, whole.operations + 1) if at_an_operation else 0)
    other = _start(stage.command, out) if with_another else None
    if not at_an_operation:
        running.process.join(rng.uniform(0, whole.seconds))
        running.process.kill()
    running.ended()
    if other is not None:
        beside = other.ended()
        if beside.code and ("Traceback" in beside.text or "unexpected" in beside.text):
            return f"{stage.name}, kill {number}: the run beside it: {beside.text[-500:]}"
    return _again(stage, whole, out, f"{stage.name}, kill {number}")


def filled_once(stage: Stage, whole: Undisturbed, scratch: Path, share: float) -> str:
    """share: of the room that the stage needs."""
    name = f"{stage.name}, {share:.2f} of its room"
    with _small_disk(scratch / f"full-{share:.3f}", _size(whole.before) + round(share * whole.nbytes)) as out:
        shutil.copytree(whole.before, out, symlinks=True, dirs_exist_ok=True)
        ended = _run(stage.command, out)
        if ended.code < 0 or "Traceback" in ended.text or "unexpected" in ended.text:
            return f"{name}: exit code {ended.code}: {ended.text[-500:]}"
        subprocess.run(["mount", "-o", "remount,size=4g", out.parent], check=True)
        return _again(stage, whole, out, name)


def _again(stage: Stage, whole: Undisturbed, out: Path, name: str) -> str:
    ended = _run(stage.command, out)
    found = digests(out)
    shutil.rmtree(out)
    if ended.code:
        return f"{name}: the run after it: {ended.text[-500:]}"
    wrong = sorted(k for k in found.keys() | whole.files.keys() if found.get(k) != whole.files.get(k))
    return f"{name}: differs in {wrong[:5]}" if wrong else ""


@contextmanager
def _small_disk(place: Path, nbytes: int) -> Iterator[Path]:
    place.mkdir()
    pages = max(16, -(-nbytes // 4096) + 16)  # of the folders and the last pages of files
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", place], check=True)
    try:
        (place / "out").mkdir()
        yield place / "out"
    finally:
        subprocess.run(["umount", place], check=True)


def digests(out: Path) -> dict[str, str]:
    """Of every file; "" of those that may differ from run to run. Without the logs."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and "logs" not in p.relative_to(out).parts):
        name = str(path.relative_to(out))
        found[name] = "" if name.endswith(_PER_RUN) else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _size(folder: Path) -> int:
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*") if p.is_file())


def _run(command: Sequence[str], out: Path) -> Ended:
    return _start(command, out).ended()


def _start(command: Sequence[str], out: Path, last: int = 0) -> Running:
    """last: the file operation in `out` before which the run kills itself; 0 for none."""
    text = tempfile.NamedTemporaryFile(prefix="faults-", suffix=".txt")  # noqa: SIM115 (read when it has ended)
    words = [word.format(out=out) for word in command]
    process = _forks().Process(target=_counted, args=(words, str(out), last, text.name))
    process.start()
    return Running(process, text)


@cache
def _forks() -> ForkServerContext:
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _counted(words: Sequence[str], out: str, last: int, text: str) -> None:
    """A command in this process, that kills itself before its file operation number `last` in a folder; operations of
    compiled code are not seen."""
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _OPERATIONS or not arguments or not str(arguments[0]).startswith(out):
            return
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

    told = os.open(text, os.O_WRONLY | os.O_APPEND)
    os.dup2(told, 1)
    os.dup2(told, 2)
    sys.addaudithook(count)
    code = run(words)
    print(f"operations: {seen}", file=sys.stderr, flush=True)
    sys.exit(code)


def _checked(ended: Ended) -> Ended:
    if ended.code:
        raise SystemExit(f"the undisturbed run failed: {ended.text[-2000:]}")
    return ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
