"""Execute a plan: read, encode and write unit by unit, on several threads, in memory that does not grow with the model.

Every output byte's place is known before the first weight is read, so threads write where they like, in the plan's
order and from one file on into the next; `concurrent_file.py` follows them.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from sixfold.artifact.concurrent_file import GrowingFile
from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.plan import ExportPlan, PlannedFile, PlannedTensor, Unit
from sixfold.artifact.safetensors_layout import CAST, COPY
from sixfold.artifact.workspace import read_json, sync_folder
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError

Encode = Callable[[Unit, Sequence[torch.Tensor]], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Batched:
    """For units that are encoded side by side.

    split: a file's units in batches, by what the plan says of them alone: a resumed run must have the same, as what
    stands beside a unit may change the last bits of its sums. encode: the outputs of each unit of a batch.
    """

    split: Callable[[Sequence[Unit]], Sequence[Sequence[Unit]]]
    encode: Callable[[Sequence[Unit], Sequence[Sequence[torch.Tensor]]], Sequence[Sequence[torch.Tensor]]]


@dataclass(frozen=True)
class _Job:
    """todo: those of the batch that are still to be written."""

    file: GrowingFile
    batch: Sequence[Unit]
    todo: frozenset[Unit]


_BLOCK = 16 << 20  # bytes copied at a time
_GROWING = 3
"""Files that are begun and not on disk yet: workers need not wait for the end of one, unless the disk is slow."""
_TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def write_files(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    encode: Encode | Batched,
    folder: Path,
    *,
    key: str,
    threads: int,
    advance: Callable[[int], None],
) -> dict[str, FileRecord]:
    """Write every weight file of `plan` into `folder` and return their sizes and hashes.

    key: digest of all that decides the bytes. Files and prefixes that an earlier run with the same key left in
    `folder` are kept; anything else there is written again. advance: called with numbers of finished bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {t.name: t for t in plan.tensors}
    by_file: dict[str, list[Unit]] = {file.name: [] for file in plan.files}
    for unit in plan.units:
        by_file[tensors[unit.outputs[0].name].file].append(unit)
    batched = encode if isinstance(encode, Batched) else _one_by_one(encode)
    records: dict[str, FileRecord] = {}
    growing: list[GrowingFile] = []

    def units() -> Iterator[_Job]:
        """Opens each incomplete file when its first unit is next."""
        for file in plan.files:
            done = _left_by_earlier_run(file, folder, key)
            if done is not None:
                records[file.name] = done
                advance(file.nbytes)
                continue
            if len(growing) >= _GROWING:
                growing[-_GROWING].whole()
            growing.append(GrowingFile(file, folder, key))
            growing[-1].write(memoryview(file.header), 0)
            advance(len(file.header))
            todo, finished = _unfinished(by_file[file.name], tensors, growing[-1].safe)
            for start, nbytes in (*finished, *_padding(file, tensors)):
                growing[-1].finished(start, nbytes)
                advance(nbytes)
            for batch in batched.split(by_file[file.name]):
                if not todo.isdisjoint(batch):
                    yield _Job(growing[-1], batch, frozenset(todo.intersection(batch)))

    def work(job: _Job) -> None:
        for nbytes in _run(job, tensors, checkpoint, batched):
            advance(nbytes)

    try:
        with _one_torch_thread():
            _each(units(), work, threads)
        for file in growing:
            records[file.name] = FileRecord(file.nbytes, file.whole())
    except BaseException:
        for file in growing:
            file.abandon()
        raise
    return {file.name: records[file.name] for file in plan.files}


def _one_by_one(encode: Encode) -> Batched:
    return Batched(
        lambda units: [(unit,) for unit in units],
        lambda units, inputs: [encode(*one) for one in zip(units, inputs, strict=True)],
    )


def _left_by_earlier_run(file: PlannedFile, folder: Path, key: str) -> FileRecord | None:
    """What a run with the same key finished; what another key left of the file is dropped."""
    done = read_json(folder / f"{file.name}.json")
    if done is None or done.get("key") != key:
        _forget(folder, file)
        return None
    if "sha256" in done and (folder / file.name).is_file():
        return FileRecord(int(done["bytes"]), str(done["sha256"]))
    return None


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


def _unfinished(
    units: Sequence[Unit], tensors: Mapping[str, PlannedTensor], safe: int
) -> tuple[set[Unit], list[tuple[int, int]]]:
    """Units with an output beyond the first `safe` bytes, and the (offset, bytes) of the others' outputs."""
    todo, finished = set(), []
    for unit in units:
        ranges = [(tensors[o.name].offset + o.start, o.nbytes) for o in unit.outputs]
        if all(start + nbytes <= safe for start, nbytes in ranges):
            finished.extend(ranges)
        else:
            todo.add(unit)
    return todo, finished


def _padding(file: PlannedFile, tensors: Mapping[str, PlannedTensor]) -> list[tuple[int, int]]:
    """Gaps between tensors (GGUF aligns them); a file that was made longer already holds zeros there."""
    spans = sorted((t.offset, t.offset + t.nbytes) for t in tensors.values() if t.file == file.name)
    edges = [(len(file.header), len(file.header)), *spans, (file.nbytes, file.nbytes)]
    return [(stop, start - stop) for (_, stop), (start, _) in pairwise(edges) if start > stop]


def _each(jobs: Iterator[_Job], work: Callable[[_Job], None], threads: int) -> None:
    """Run `work` on every job; the first error stops the others at their next job and is raised here."""
    lock = threading.Lock()
    errors: list[BaseException] = []

    def loop() -> None:
        while not errors:
            try:
                with lock:
                    job = next(jobs, None)
                if job is None:
                    return
                work(job)
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


def _run(job: _Job, tensors: Mapping[str, PlannedTensor], checkpoint: Checkpoint, batched: Batched) -> Iterator[int]:
    """Yields the bytes of every range as it is written."""
    if job.batch[0].encoding in (COPY, CAST):
        for unit in job.batch:
            yield from _copy(unit, tensors[unit.outputs[0].name], checkpoint, job.file)
        return
    encoded = batched.encode(job.batch, [[checkpoint.read(part) for part in unit.inputs] for unit in job.batch])
    for unit, outputs in zip(job.batch, encoded, strict=True):
        for planned, output in zip(unit.outputs, outputs, strict=True):
            data = _bytes_of(output)
            if len(data) != planned.nbytes:
                raise SixfoldError(
                    f"{planned.name} was planned with {planned.nbytes} bytes, but its exporter made {len(data)}",
                    "this is a defect of the exporter: report it with the recipe",
                )
            if unit in job.todo:
                job.file.write(data, tensors[planned.name].offset + planned.start)
                yield len(data)


def _copy(unit: Unit, tensor: PlannedTensor, checkpoint: Checkpoint, file: GrowingFile) -> Iterator[int]:
    """The rows of all inputs, one after the other."""
    row_bytes = max(1, unit.outputs[0].nbytes // max(1, sum(part.stop - part.start for part in unit.inputs)))
    step = max(1, _BLOCK // row_bytes)
    position = tensor.offset + unit.outputs[0].start
    for part in unit.inputs:
        for start in range(part.start, part.stop, step):
            block = checkpoint.read(TensorSlice(part.name, start, min(start + step, part.stop)))
            data = _bytes_of(block.to(_TORCH_DTYPES[tensor.dtype]) if unit.encoding == CAST else block)
            file.write(data, position)
            yield len(data)
            position += len(data)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
