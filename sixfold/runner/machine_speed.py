"""How fast this machine is, from a short measurement that is kept in the user's cache folder."""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from sixfold.checkpoint.storage.tensor_file import write_tensors

_FILE = 1 << 29
"""Bytes that are written and read to measure a disk."""
_PIECE = 1 << 24
SCHEMA = 5
COMPENSATED = "+"
"""Ends the name of a type whose errors are compensated."""


SideBySide = Sequence[Mapping[str, float]]
"""Seconds of what goes on at the same time, each by its parts, which come one after the other."""


@dataclass(frozen=True)
class Rounding:
    """Seconds that a weight takes: `each`, and `channel` more for every input channel. at_gpu: there, not on a core."""

    each: float
    channel: float = 0.0
    at_gpu: bool = False

    def of(self, channels: int) -> float:
        return self.each + self.channel * channels


@dataclass(frozen=True)
class Verifying:
    """Seconds that a weight of one type takes. compare: to be read, dequantized and compared with the source's. decode:
    to be read and dequantized once more. plain: to be rounded plainly for the run that a gate refers to."""

    compare: float
    decode: float
    plain: float


@dataclass(frozen=True)
class SmallJob:
    """What a small model took whose stages were all run. start: seconds by stage, before and after all that follows the
    weights, the first time in a process. verifying: by type, as `MachineSpeed.rounding`; "copy" is plain. held: seconds
    that a byte of the source takes to be read for them, from the page cache. answers: seconds of a logit that is made a
    probability and compared. process: seconds until one is started and has imported all stages.
    running: seconds of a number that goes into a Linear or comes out of it, beside products, "" of the run itself, and
    of rounding inputs as engines of a format do. damped: seconds of a pair of an input's channels whose second moments
    are read for comparing. overhead: by walk, how many times as long it takes as the longest of its parts but the
    disk's, without start-up."""

    process: float
    start: Mapping[str, float]
    verifying: Mapping[str, Verifying]
    held: float
    answers: float
    running: Mapping[str, float] = field(default_factory=dict)
    damped: float = 0.0
    overhead: Mapping[str, float] = field(default_factory=dict)


NO_JOB = SmallJob(0.0, {}, {}, 0.0, 0.0)


@dataclass(frozen=True)
class MachineSpeed:
    """read, write: of the disk itself, not of the page cache. digest: SHA-256 on one core. All in bytes a second.
    products: float operations a second of matrix products, on the GPU in bfloat16, or on all cores in float32; singles:
    there in float32 as well. gpu: its name, "" without one. rounding: by type, as exporters name encodings; compensated
    ones end in "+". kept: bytes of statistics a second that come off the GPU, are made a file, hashed and synced to
    disk, one after the other. moved: bytes a second from memory to the GPU, or from there. job: of a small model."""

    cores: int
    gpu: str
    read: float
    write: float
    digest: float
    products: float
    singles: float
    rounding: Mapping[str, Rounding]
    kept: float
    moved: float
    job: SmallJob = NO_JOB

    def disk_seconds(self, read: float, written: float) -> float:
        """What the disk alone takes for so many bytes."""
        return read / self.read + written / self.write


def measured_speed() -> MachineSpeed | None:
    """What was measured on this machine; None where nothing was, or by another version."""
    try:
        found = json.loads(_path().read_text())
        if found.pop("schema") != SCHEMA:
            return None
        rounding = {name: Rounding(**of) for name, of in found.pop("rounding").items()}
        job = found.pop("job")
        verifying = {name: Verifying(**of) for name, of in job.pop("verifying").items()}
        return MachineSpeed(rounding=rounding, job=SmallJob(verifying=verifying, **job), **found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def measured_otherwise() -> bool:
    """Whether this machine was measured, but not as this version does."""
    return _path().is_file() and measured_speed() is None


def keep(speed: MachineSpeed) -> Path:
    """Where it was written, for `measured_speed` to find."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"schema": SCHEMA, **asdict(speed)}, indent=2) + "\n")
    temporary.replace(path)
    return path


def measure(folder: Path, rounding: Mapping[str, Rounding], job: SmallJob = NO_JOB) -> MachineSpeed:
    """folder: on the disk that is measured. rounding: as exporters measure it. job: as it was done before. Takes some
    seconds, and half a gigabyte of disk meanwhile."""
    read, write = _disk(folder)
    block = os.urandom(_PIECE)
    digest = 8 * _PIECE / timed(lambda: [hashlib.sha256(block).digest() for _ in range(8)])
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    device = torch.device("cuda" if gpu else "cpu")
    singles = products_speed(device, torch.float32)
    products = products_speed(device, torch.bfloat16) if gpu else singles
    kept, moved = _kept(folder, device), _moved(device)
    return MachineSpeed(_cores(), gpu, read, write, digest, products, singles, rounding, kept, moved, job)


def timed(work: Callable[[], object], runs: int = 2) -> float:
    """Seconds of the fastest run, after one that does not count."""
    work()
    found = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return max(min(found), 1e-9)


def _path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root, "sixfold", f"speed-{platform.node() or 'machine'}.json")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disk(folder: Path) -> tuple[float, float]:
    """Bytes a second read and written. What was written is thrown out of the page cache before it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    piece = os.urandom(_PIECE)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".speed-") as file:
        begun = time.perf_counter()
        for _ in range(_FILE // _PIECE):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter()
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        middle = time.perf_counter()
        buffer = memoryview(bytearray(_PIECE))
        for start in range(0, _FILE, _PIECE):
            os.preadv(file.fileno(), [buffer], start)
        return _FILE / (time.perf_counter() - middle), _FILE / (written - begun)


def _kept(folder: Path, device: torch.device) -> float:
    """As a layer's statistics are."""
    held = torch.zeros(_FILE // 2, dtype=torch.float16, device=device)

    def keep_them() -> None:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".speed-") as file:
            write_tensors(Path(file.name), {"moments": held}, {"format": "pt"})
            os.fsync(file.fileno())

    return _FILE / timed(keep_them, 1)


def _moved(device: torch.device) -> float:
    """Of memory that is not pinned, as weights are that were read."""
    held = torch.zeros(_FILE // 2, dtype=torch.float16)
    there = torch.empty_like(held, device=device)
    return _FILE / timed(lambda: there.copy_(held))


def products_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Float operations a second."""
    size = 8192 if device.type == "cuda" else 1536
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: one @ other)
