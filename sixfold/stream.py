"""Execute a plan: read, encode and write unit by unit, on several threads, in memory that does not grow with the model.

Every output byte's place is known before the first weight is read, so threads write where they like (pwrite). Behind
them one thread follows the finished prefix of the file: it hashes it from the page cache, pushes it to disk, and notes
how far the file is safe, which is where a killed run goes on.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from sixfold.checkpoint import Checkpoint
from sixfold.errors import SixfoldError
from sixfold.manifest import FileRecord
from sixfold.plan import ExportPlan, PlannedFile, PlannedTensor, TensorSlice, Unit
from sixfold.safetensors_layout import CAST, COPY
from sixfold.workspace import read_json, sync_folder, write_json

Encode = Callable[[Unit, Sequence[torch.Tensor]], Sequence[torch.Tensor]]

_BLOCK = 16 << 20  # bytes copied or hashed at a time
_SAFE_EVERY = 256 << 20  # bytes between two notes of how far a file is safe
_TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def write_files(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    encode: Encode,
    folder: Path,
    *,
    key: str,
    threads: int,
    advance: Callable[[int], None],
) -> dict[str, FileRecord]:
    """Write every weight file of `plan` into `folder` and return their sizes and hashes.

    key: digest of all that decides the bytes. Files and prefixes that an earlier run with the same key left in
    `folder` are kept; anything else there is written anew. advance: called with numbers of finished bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {t.name: t for t in plan.tensors}
    by_file: dict[str, list[Unit]] = {file.name: [] for file in plan.files}
    for unit in plan.units:
        by_file[tensors[unit.outputs[0].name].file].append(unit)
    records = {}
    with _one_torch_thread():
        for file in plan.files:
            note = folder / f"{file.name}.json"
            done = read_json(note)
            if done is None or done.get("key") != key:
                _forget(folder, file)
                done = {}
            if "sha256" in done and (folder / file.name).is_file():
                advance(file.nbytes)
            else:
                safe = int(done.get("safe", 0))
                sha256 = _write_file(
                    file, by_file[file.name], tensors, checkpoint, encode, folder, safe, key, threads, advance
                )
                done = {"key": key, "bytes": file.nbytes, "sha256": sha256}
                write_json(note, done)
            records[file.name] = FileRecord(int(done["bytes"]), str(done["sha256"]))
    return records


def _forget(folder: Path, file: PlannedFile) -> None:
    """Drop what a run with another key left of a file. The note goes first: while the bytes under it change, nobody may
    believe it; and a new file holds zeros where the old one, laid out differently, has weights in the padding."""
    (folder / f"{file.name}.json").unlink(missing_ok=True)
    sync_folder(folder)
    (folder / f"{file.name}.tmp").unlink(missing_ok=True)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Units are the parallelism; torch's own threads would only fight over the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_file(
    file: PlannedFile,
    units: Sequence[Unit],
    tensors: Mapping[str, PlannedTensor],
    checkpoint: Checkpoint,
    encode: Encode,
    folder: Path,
    safe: int,
    key: str,
    threads: int,
    advance: Callable[[int], None],
) -> str:
    temporary = folder / f"{file.name}.tmp"
    if not temporary.exists():
        safe = 0
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, file.nbytes)
        _write(descriptor, memoryview(file.header), 0)
        todo = []
        finished = [(0, len(file.header)), *_padding(file, tensors)]
        for unit in units:
            ranges = [(tensors[o.name].offset + o.start, o.nbytes) for o in unit.outputs]
            if all(start + nbytes <= safe for start, nbytes in ranges):
                finished.extend(ranges)
            else:
                todo.append(unit)
        follower = _Follower(descriptor, file.nbytes, folder / f"{file.name}.json", key, safe)
        with follower:
            for start, nbytes in finished:
                follower.finished(start, nbytes)
            advance(sum(nbytes for _, nbytes in finished))

            def work(unit: Unit) -> None:
                for start, nbytes in _run_unit(unit, tensors, checkpoint, encode, descriptor):
                    follower.finished(start, nbytes)
                    advance(nbytes)

            _each(todo, work, threads)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(folder / file.name)
    sync_folder(folder)
    return follower.sha256


def _padding(file: PlannedFile, tensors: Mapping[str, PlannedTensor]) -> list[tuple[int, int]]:
    """Gaps between tensors (GGUF aligns them); a file that was made longer already holds zeros there."""
    spans = sorted((t.offset, t.offset + t.nbytes) for t in tensors.values() if t.file == file.name)
    edges = [(len(file.header), len(file.header)), *spans, (file.nbytes, file.nbytes)]
    return [(stop, start - stop) for (_, stop), (start, _) in pairwise(edges) if start > stop]


def _each(units: Sequence[Unit], work: Callable[[Unit], None], threads: int) -> None:
    """Run `work` on every unit; the first error stops the others at their next unit and is raised here."""
    waiting = iter(units)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def loop() -> None:
        while not errors:
            with lock:
                unit = next(waiting, None)
            if unit is None:
                return
            try:
                work(unit)
            except BaseException as error:  # carried to the caller's thread, whatever it is
                errors.append(error)

    helpers = [threading.Thread(target=loop, daemon=True) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    try:
        loop()
    except KeyboardInterrupt as error:
        errors.append(error)
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


def _run_unit(
    unit: Unit,
    tensors: Mapping[str, PlannedTensor],
    checkpoint: Checkpoint,
    encode: Encode,
    descriptor: int,
) -> Iterator[tuple[int, int]]:
    """Yields (offset, bytes) of every range as it is written."""
    if unit.encoding in (COPY, CAST):
        yield from _copy(unit, tensors[unit.outputs[0].name], checkpoint, descriptor)
        return
    outputs = encode(unit, [checkpoint.read(part) for part in unit.inputs])
    for planned, output in zip(unit.outputs, outputs, strict=True):
        data = _bytes_of(output)
        if len(data) != planned.nbytes:
            raise SixfoldError(
                f"{planned.name} was planned with {planned.nbytes} bytes, but its exporter made {len(data)}",
                "this is a defect of the exporter: report it with the recipe",
            )
        start = tensors[planned.name].offset + planned.start
        _write(descriptor, data, start)
        yield start, len(data)


def _copy(unit: Unit, tensor: PlannedTensor, checkpoint: Checkpoint, descriptor: int) -> Iterator[tuple[int, int]]:
    """The rows of all inputs, one after the other."""
    row_bytes = max(1, unit.outputs[0].nbytes // max(1, sum(part.stop - part.start for part in unit.inputs)))
    step = max(1, _BLOCK // row_bytes)
    position = tensor.offset + unit.outputs[0].start
    for part in unit.inputs:
        for start in range(part.start, part.stop, step):
            block = checkpoint.read(TensorSlice(part.name, start, min(start + step, part.stop)))
            data = _bytes_of(block.to(_TORCH_DTYPES[tensor.dtype]) if unit.encoding == CAST else block)
            _write(descriptor, data, position)
            yield position, len(data)
            position += len(data)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while len(data):
        try:
            written = os.pwrite(descriptor, data, offset)
        except OSError as error:
            raise SixfoldError(
                f"writing the artifact failed: {error.strerror}",
                "see to the disk that OUT is on and run the same command again: it goes on where this one stopped",
            ) from error
        data = data[written:]
        offset += written


@dataclass
class _Follower:
    """Hashes the finished prefix of a file while it grows, and keeps a note of how much of it is on disk."""

    descriptor: int
    nbytes: int
    note: Path
    key: str
    safe: int
    sha256: str = ""

    def __enter__(self) -> "_Follower":
        self._ranges: dict[int, int] = {}
        self._prefix = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        with self._changed:
            self._stopped = kind is not None
            self._changed.notify()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def finished(self, start: int, nbytes: int) -> None:
        """Bytes [start, start + nbytes) hold their final values; every byte is reported once."""
        if nbytes == 0:
            return
        with self._changed:
            self._ranges[start] = nbytes
            while self._prefix in self._ranges:
                self._prefix += self._ranges.pop(self._prefix)
            self._changed.notify()

    def _guarded(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # raised in the caller's thread by __exit__
            self._error = error

    def _follow(self) -> None:
        digest = hashlib.sha256()
        position = 0
        while position < self.nbytes:
            with self._changed:
                while self._prefix == position and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                prefix = self._prefix
            while position < prefix:
                block = os.pread(self.descriptor, min(_BLOCK, prefix - position), position)
                digest.update(block)
                position += len(block)
                if position - self.safe >= _SAFE_EVERY:
                    os.fsync(self.descriptor)
                    self.safe = position
                    write_json(self.note, {"key": self.key, "safe": position})
        self.sha256 = digest.hexdigest()
