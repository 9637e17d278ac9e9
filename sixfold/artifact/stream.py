"""Execute plans: read, encode and write unit by unit, on several threads, in memory that does not grow with the model.

One walk over the source for all plans (`walk.py`): what one has read is there for the others. Every output byte's place
is known before the first weight is read, so threads write where they like, and from one file on into the next;
`concurrent_file.py` follows them. What stops one plan leaves the others alone.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.pieces import Pieces
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import CAST, COPY
from sixfold.artifact.variant_files import VariantFiles
from sixfold.artifact.walk import AHEAD, Job, Piece, Walk, most_held
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError

_BLOCK = 16 << 20  # bytes copied at a time
_TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_CLOCK = threading.Lock()

Encode = Callable[[Unit, Sequence[torch.Tensor]], Sequence[torch.Tensor]]


def _nothing(layer: int, checkpoint: Checkpoint) -> None:
    pass


@dataclass(frozen=True)
class Writing:
    """A plan to be executed, into `folder`.

    key: digest of all that decides the bytes. Files and prefixes that an earlier run with the same key left in
    `folder` are kept; anything else there is written again. split: a file's units in batches that are encoded side by
    side, by what the plan says of them alone: a resumed run must have the same, as what stands beside a unit may change
    the last bits of its sums. encode: the outputs of each unit of a batch; inputs are shared, and not to be changed.
    decide: called once with each layer that a unit names, before its units are encoded, and with the checkpoint that
    it is to read by. searched: what of the source that reads, of each layer. at_gpu: whether `encode`
    takes turns at a GPU.
    """

    plan: ExportPlan
    folder: Path
    key: str
    split: Callable[[Sequence[Unit]], Sequence[Sequence[Unit]]]
    encode: Callable[[Sequence[Unit], Sequence[Sequence[torch.Tensor]]], Sequence[Sequence[torch.Tensor]]]
    decide: Callable[[int, Checkpoint], None] = _nothing
    searched: Mapping[int, Sequence[TensorSlice]] = field(default_factory=dict)
    at_gpu: bool = False


@dataclass(frozen=True)
class Written:
    """files: sizes and hashes by name, {} where `error` stopped the writing. seconds: of "decide", "encode" and
    "write", added up over threads."""

    files: Mapping[str, FileRecord]
    error: Exception | None
    seconds: Mapping[str, float]

    def whole(self) -> Mapping[str, FileRecord]:
        """The files; raises what stopped the writing."""
        if self.error is not None:
            raise self.error
        return self.files


@dataclass(frozen=True)
class Walked:
    """each: of every writing, in order. seconds: that the walk took. read_bytes, read_seconds: of the source, for all
    writings together; these seconds are added up over threads."""

    each: tuple[Written, ...]
    seconds: float
    read_bytes: int
    read_seconds: float


def singly(units: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """A `split` for units that are encoded one by one."""
    return [(unit,) for unit in units]


def one_by_one(
    encode: Encode,
) -> Callable[[Sequence[Unit], Sequence[Sequence[torch.Tensor]]], Sequence[Sequence[torch.Tensor]]]:
    return lambda units, inputs: [encode(*one) for one in zip(units, inputs, strict=True)]


def write_files(
    writings: Sequence[Writing],
    checkpoint: Checkpoint,
    *,
    threads: int,
    advance: Callable[[int], None],
    memory: int | None = None,
    in_groups: Callable[[Sequence[Sequence[Writing]]], None] = lambda groups: None,
) -> Walked:
    """Write every weight file of every plan. advance: called with numbers of finished bytes.

    memory: bytes that pieces, and what is made of them, should take at most (see `_needed`). Where all writings at once
    take more, they are done in groups, each with a walk of its own; `in_groups` is told which.
    What stops one writing is in its result; only what is no Exception (an interrupt) is raised. Finished prefixes are
    kept for the next run either way.
    """
    pieces = Pieces(checkpoint, _read_together(writings))
    works = [_Work(writing, pieces, advance) for writing in writings]
    jobs = _in_order(works, pieces)
    groups = _groups(works, jobs, threads, memory)
    if len(groups) > 1:
        in_groups([[work.writing for work in group] for group in groups])
    begun, nbytes, seconds = time.monotonic(), 0, 0.0
    try:
        for group in groups:
            walk = Walk([job for job in jobs if job.owner in group], pieces.fetch)
            with _one_torch_thread():
                walk.run(threads)
            nbytes, seconds = nbytes + walk.read_bytes, seconds + walk.read_seconds
        each = tuple(work.result() for work in works)
    except BaseException:
        for work in works:
            work.files.abandon()
        raise
    return Walked(each, time.monotonic() - begun, nbytes, seconds)


_MADE = 4
"""Bytes that encoding takes for each byte of BF16 that it is given."""


@dataclass(frozen=True)
class _Batch:
    """todo: units of its file that are still to be written."""

    units: Sequence[Unit]
    todo: frozenset[Unit]


@dataclass(frozen=True)
class _Rows:
    """Of a unit that is copied: the rows that a piece has."""

    unit: Unit
    piece: Piece


class _Work:
    """One writing, and how far it is. See sixfold.artifact.walk.Owner."""

    def __init__(self, writing: Writing, pieces: Pieces, advance: Callable[[int], None]) -> None:
        self.failed: Exception | None = None
        self.writing = writing
        self.files = VariantFiles(writing.plan, writing.folder, writing.key, advance)
        self._pieces, self._checkpoint = pieces, pieces.checkpoint
        self.seconds = dict.fromkeys(("decide", "encode", "write"), 0.0)

    def do(self, what: object) -> None:
        """what: a layer to be decided, a _Batch to be encoded, or _Rows to be copied."""
        if isinstance(what, int):
            with self._timed("decide"):
                self.writing.decide(what, self._checkpoint)
        elif isinstance(what, _Rows):
            self._copy(what.unit, what.piece)
        elif isinstance(what, _Batch):
            self._encode(what)

    def result(self) -> Written:
        files: Mapping[str, FileRecord] = {}
        if self.failed is None:
            try:
                files = self.files.whole()
            except Exception as error:  # of this writing alone
                self.failed = error
        if self.failed is not None:
            self.files.abandon()
        return Written(files, self.failed, self.seconds)

    def _encode(self, batch: _Batch) -> None:
        inputs = [[self._checkpoint.read(part) for part in unit.inputs] for unit in batch.units]
        with self._timed("encode"):
            encoded = self.writing.encode(batch.units, inputs)
        for unit, outputs in zip(batch.units, encoded, strict=True):
            for planned, output in zip(unit.outputs, outputs, strict=True):
                data = _bytes_of(output)
                if len(data) != planned.nbytes:
                    raise SixfoldError(
                        f"{planned.name} was planned with {planned.nbytes} bytes, but its exporter made {len(data)}",
                        "this is a defect of the exporter: report it with the recipe",
                    )
                if unit in batch.todo:
                    with self._timed("write"):
                        self.files.write(planned.name, planned.start, data)
        self.files.one_job_less(batch.units[0])

    def _copy(self, unit: Unit, piece: Piece) -> None:
        """Its rows of each input of that name."""
        out = unit.outputs[0]
        rows = sum(part.stop - part.start for part in unit.inputs)
        row_bytes = out.nbytes // max(1, rows)
        step = max(1, _BLOCK // max(1, row_bytes))
        before = 0
        for part in unit.inputs:
            start, stop = self._pieces.rows(part, piece)
            for first in range(start, stop, step):
                block = self._checkpoint.read(TensorSlice(part.name, first, min(first + step, stop)))
                with self._timed("write"):
                    if unit.encoding == CAST:
                        block = block.to(_TORCH_DTYPES[self.files.dtype(out.name)])
                    data = _bytes_of(block)
                    self.files.write(out.name, out.start + (before + first - part.start) * row_bytes, data)
            before += part.stop - part.start
        self.files.one_job_less(unit)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            with _CLOCK:
                self.seconds[stage] += time.monotonic() - begun


def _read_together(writings: Sequence[Writing]) -> Iterator[TensorSlice]:
    for writing in writings:
        for unit in writing.plan.units:
            if unit.encoding not in (COPY, CAST):
                yield from unit.inputs
        for parts in writing.searched.values():
            yield from parts


def _in_order(works: Sequence[_Work], pieces: Pieces) -> list[Job]:
    """Every job, where the last of what it reads is in the source; what is decided before what it is decided for."""
    keyed: list[tuple[_Key, Job]] = []
    for place, work in enumerate(works):
        try:
            keyed += list(_jobs_of(work, place, pieces))
        except Exception as error:  # costs this writing alone
            work.failed = error
    return [job for _, job in sorted(keyed, key=lambda entry: entry[0])]


_Key = tuple[tuple[int, int], int, int]
"""Place in the source, of the writing, and of the job among those of the writing."""


def _jobs_of(work: _Work, writing: int, pieces: Pieces) -> Iterator[tuple[_Key, Job]]:
    encoding: list[tuple[tuple[int, int], Job, frozenset[int]]] = []
    for file, units, todo in work.files.unfinished():
        for batch in work.writing.split(units):
            if todo.isdisjoint(batch):
                continue
            layers = frozenset(unit.layer for unit in batch if unit.layer is not None)
            if batch[0].encoding in (COPY, CAST):
                each = ((unit, piece) for unit in batch for piece in pieces.of(unit.inputs))
                made = [Job(work, _Rows(unit, piece), (piece,)) for unit, piece in each]
            else:
                held = pieces.of(part for unit in batch for part in unit.inputs)
                made = [Job(work, _Batch(batch, todo), held, narrow=work.writing.at_gpu)]
            for job in made:
                work.files.expect_job(file)
                encoding.append((_last(pieces, job.pieces), job, layers))
    first: dict[int, tuple[int, int]] = {}
    for place, _, layers in encoding:
        first |= {layer: min(place, first.get(layer, place)) for layer in layers}
    deciding: dict[int, tuple[tuple[int, int], Job]] = {}
    for layer in sorted({unit.layer for unit in work.writing.plan.units if unit.layer is not None}):
        held = pieces.of(work.writing.searched.get(layer, ()))
        deciding[layer] = (_last(pieces, held) if held else first.get(layer, (-1, 0)), Job(work, layer, held))
    for number, (place, job) in enumerate(deciding.values()):
        yield (place, writing, number), job
    for number, (place, job, layers) in enumerate(encoding, len(deciding)):
        job.after = tuple(deciding[layer][1] for layer in sorted(layers))
        yield (max((place, *(deciding[layer][0] for layer in layers))), writing, number), job


def _last(pieces: Pieces, held: Sequence[Piece]) -> tuple[int, int]:
    return max(map(pieces.place, held), default=(-1, 0))


def _groups(works: Sequence[_Work], jobs: Sequence[Job], threads: int, memory: int | None) -> list[list[_Work]]:
    """All together where that fits; else as many as fit one after the other, one at least."""
    if memory is None or _needed(jobs, threads) <= memory:
        return [list(works)]
    groups: list[list[_Work]] = [[]]
    for work in works:
        together = [*groups[-1], work]
        if groups[-1] and _needed([job for job in jobs if job.owner in together], threads) > memory:
            groups.append([])
        groups[-1].append(work)
    return groups


def _needed(jobs: Sequence[Job], threads: int) -> int:
    """About how many bytes of host memory a walk takes: pieces that are held at once, and what threads make of theirs
    in float32."""
    largest = max((sum(p.nbytes for p in job.pieces) for job in jobs if not isinstance(job.what, int)), default=0)
    return most_held(jobs) + AHEAD + threads * _MADE * largest


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Units are the parallelism; torch's own threads would only fight over the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
