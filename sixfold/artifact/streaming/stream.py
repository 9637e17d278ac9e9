"""Execute plans: read, encode and write unit by unit, on several threads, in memory that does not grow with the model.

One walk over the source for all plans (`walk.py`): what one has read is there for the others. Every output byte's place
is known before the first weight is read, so threads write where they like, and from one file on into the next;
`concurrent_file.py` follows them. What stops one plan leaves the others alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sixfold.artifact.safetensors_layout import CAST, COPY
from sixfold.artifact.streaming.pieces import Pieces
from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.artifact.streaming.walk import NARROW, Job, Piece, Walk, most_held
from sixfold.artifact.streaming.writing import Batch, Rows, Work, Writing, Written
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.tensor_slice import TensorSlice


@dataclass(frozen=True)
class Walked:
    """each: of every writing, in order. seconds: that the walk took. read_bytes, read_seconds: of the source, as it is
    once dequantized, for all writings together; these seconds are added up over threads."""

    each: tuple[Written, ...]
    seconds: float
    read_bytes: int
    read_seconds: float


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
    take more, and more than the neediest alone, they are done in groups, each with a walk of its own; `in_groups` is
    told which.
    What stops one writing is in its result; only what is no Exception (an interrupt) is raised. Finished prefixes are
    kept for the next run either way.
    """
    pieces = Pieces(checkpoint, _read_together(writings))
    works = [Work(writing, pieces, advance) for writing in writings]
    jobs = _in_order(works, pieces)
    groups = _groups(works, jobs, threads, memory)
    if len(groups) > 1:
        in_groups([[work.writing for work in group] for group in groups])
    begun, nbytes, seconds = time.monotonic(), 0, 0.0
    try:
        for group in groups:
            own = [job for job in jobs if job.owner in group]
            walk = Walk(own, pieces.fetch, _ahead(own, threads, memory))
            with torch_threads(1):  # jobs are the parallelism; torch's own threads would fight over the same cores
                walk.run(threads)
            nbytes, seconds = nbytes + walk.read_bytes, seconds + walk.read_seconds
        each = tuple(work.result() for work in works)
    except BaseException:
        for work in works:
            work.files.abandon()
        raise
    return Walked(each, time.monotonic() - begun, nbytes, seconds)


AHEAD = 64 << 20
"""Bytes that are read ahead where jobs are small."""
MADE = 4
"""Bytes that encoding takes for each byte of BF16 that it is given."""


def _read_together(writings: Sequence[Writing]) -> Iterator[TensorSlice]:
    for writing in writings:
        for unit in writing.plan.units:
            if unit.encoding not in (COPY, CAST):
                yield from unit.inputs
        for parts in writing.searched.values():
            yield from parts


def _in_order(works: Sequence[Work], pieces: Pieces) -> list[Job]:
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


def _jobs_of(work: Work, writing: int, pieces: Pieces) -> Iterator[tuple[_Key, Job]]:
    encoding: list[tuple[tuple[int, int], Job, frozenset[int]]] = []
    place = (-1, 0)
    for file, units, todo in work.files.unfinished():
        for batch in work.writing.split(units):
            if todo.isdisjoint(batch):
                continue
            layers = frozenset(unit.layer for unit in batch if unit.layer is not None)
            if batch[0].encoding in (COPY, CAST):
                each = ((unit, piece) for unit in batch for piece in pieces.of(unit.inputs))
                made = [Job(work, Rows(unit, piece), (piece,)) for unit, piece in each]
            else:
                held = pieces.of(part for unit in batch for part in unit.inputs)
                here = not work.writing.away
                made = [Job(work, Batch(batch, todo), held if here else (), narrow=here and work.writing.at_gpu)]
                place = _last(pieces, held)
            for job in made:
                work.files.expect_job(file)
                encoding.append((_last(pieces, job.pieces) if job.pieces else place, job, layers))
    first: dict[int, tuple[int, int]] = {}
    for place, _, layers in encoding:
        first |= {layer: min(place, first.get(layer, place)) for layer in layers}
    deciding: dict[int, tuple[tuple[int, int], Job]] = {}
    for layer in sorted({unit.layer for unit in work.writing.plan.units if unit.layer is not None}):
        held = pieces.of(work.writing.searched.get(layer, ()))
        place = _last(pieces, held) if held else first.get(layer, (-1, 0))
        deciding[layer] = (place, Job(work, layer, () if work.writing.away else held))
    for number, (place, job) in enumerate(deciding.values()):
        yield (place, writing, number), job
    for number, (place, job, layers) in enumerate(encoding, len(deciding)):
        job.after = tuple(deciding[layer][1] for layer in sorted(layers))
        yield (max((place, *(deciding[layer][0] for layer in layers))), writing, number), job


def _last(pieces: Pieces, held: Sequence[Piece]) -> tuple[int, int]:
    return max(map(pieces.place, held), default=(-1, 0))


def _groups(works: Sequence[Work], jobs: Sequence[Job], threads: int, memory: int | None) -> list[list[Work]]:
    """All together where that fits, or takes no more than one of them does alone; else as many as fit, in turn."""
    if memory is None or _needed(jobs, threads) <= memory:
        return [list(works)]
    memory = max(memory, *(_needed([job for job in jobs if job.owner is work], threads) for work in works))
    groups: list[list[Work]] = [[]]
    for work in works:
        together = [*groups[-1], work]
        if groups[-1] and _needed([job for job in jobs if job.owner in together], threads) > memory:
            groups.append([])
        groups[-1].append(work)
    return groups


def _needed(jobs: Sequence[Job], threads: int) -> int:
    """About how many bytes of host memory a walk takes: pieces that are held at once, and what threads make of theirs,
    in float32 on the processor; what a GPU makes comes back no larger than it went."""
    largest = {False: 0, True: 0}
    for job in jobs:
        if isinstance(job.what, Batch):
            largest[job.narrow] = max(largest[job.narrow], sum(piece.nbytes for piece in job.pieces))
    return most_held(jobs) + AHEAD + threads * MADE * largest[False] + NARROW * largest[True]


def _ahead(jobs: Sequence[Job], threads: int, memory: int | None) -> int:
    """Bytes to read ahead: what the largest job needs, where there is memory for that."""
    largest = max((sum(piece.nbytes for piece in job.pieces) for job in jobs), default=0)
    room = largest if memory is None else memory - _needed(jobs, threads) + AHEAD
    return max(AHEAD, min(largest, room))
