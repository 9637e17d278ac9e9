"""One walk over the source for all that is made of it: every piece is read once, ahead of the work, and goes after it.

Jobs have an order, which follows the source. A job can run once the pieces that it needs are in memory and the jobs
that it comes after are done; of those that can, the first is taken. Pieces are read in the order in which jobs need
them: at any time the most that a walk one job at a time holds is held, and what may be read ahead.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

NARROW = 4
"""Jobs that take turns at a GPU: one that computes, one on its way there and two that are written."""


class Owner(Protocol):
    """What jobs are done for. failed: what stopped it; its jobs are passed over then."""

    failed: Exception | None

    def do(self, what: object) -> None: ...


@dataclass(eq=False, slots=True)
class Piece:
    """Rows [start, stop) of a stored tensor, read together. tensor: while it is held. users: jobs still to come."""

    name: str
    start: int
    stop: int
    nbytes: int
    tensor: torch.Tensor | None = None
    users: int = 0
    waiting: list["Job"] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Job:
    """what: for its owner to know. after: jobs that come before it. narrow: whether it waits for a turn at a GPU, and
    only NARROW such jobs are begun. passed: over, since its owner had failed when its turn came. lacking: pieces and
    jobs that it waits for."""

    owner: Owner
    what: object
    pieces: tuple[Piece, ...]
    after: tuple["Job", ...] = ()
    narrow: bool = False
    before: list["Job"] = field(default_factory=list)
    place: int = 0
    passed: bool = False
    lacking: int = 0

    def __lt__(self, other: "Job") -> bool:
        return self.place < other.place


def most_held(jobs: Sequence[Job]) -> int:
    """Bytes of pieces that a walk one job at a time holds at most."""
    left: dict[int, int] = {}
    for job in jobs:
        for piece in job.pieces:
            left[id(piece)] = left.get(id(piece), 0) + 1
    held = most = 0
    seen: set[int] = set()
    for job in jobs:
        held += sum(piece.nbytes for piece in job.pieces if id(piece) not in seen)
        seen.update(map(id, job.pieces))
        most = max(most, held)
        for piece in job.pieces:
            left[id(piece)] -= 1
            held -= 0 if left[id(piece)] else piece.nbytes
    return most


class Walk:
    """read_bytes, read_seconds: of the source, so far, added up over threads."""

    def __init__(self, jobs: Sequence[Job], read: Callable[[Piece], torch.Tensor], ahead: int) -> None:
        """jobs: in their order, each after those that it waits for. ahead: bytes of pieces to read beyond."""
        self.read_bytes, self.read_seconds = 0, 0.0
        self._read = read
        self._pieces: list[Piece] = []
        self._ready: dict[bool, list[Job]] = {False: [], True: []}
        self._limit = most_held(jobs) + ahead
        self._held = self._next = self._reading = 0
        self._working = {False: 0, True: 0}
        self._left = len(jobs)
        self._threads = 1
        self._stopped: BaseException | None = None
        self._changed = threading.Condition()
        seen: set[int] = set()
        for place, job in enumerate(jobs):
            job.place, job.lacking = place, len(job.pieces) + len(job.after)
            for piece in job.pieces:
                piece.users += 1
                piece.waiting.append(job)
                if id(piece) not in seen:
                    seen.add(id(piece))
                    self._pieces.append(piece)
            for earlier in job.after:
                earlier.before.append(job)
            if not job.lacking:
                self._ready[job.narrow].append(job)  # in order, which makes it a heap

    def run(self, threads: int) -> None:
        """Returns when every job is done or passed over. threads: that work at most; one more reads ahead of them.
        Raises what is no Exception (an interrupt) as soon as the jobs that run are done."""
        self._threads = threads
        helpers = [threading.Thread(target=self._loop, daemon=True) for _ in range(threads)]
        for helper in helpers:
            helper.start()
        try:
            self._loop()
        finally:
            with self._changed:
                self._left = 0
                self._changed.notify_all()
            for helper in helpers:
                helper.join()
        if self._stopped is not None:
            raise self._stopped

    def _loop(self) -> None:
        try:
            while (task := self._take()) is not None:
                if isinstance(task, Piece):
                    self._fetch(task)
                else:
                    self._do(task)
        except BaseException as error:  # carried to the caller's thread, whatever it is
            with self._changed:
                self._stopped, self._left = self._stopped or error, 0
                self._changed.notify_all()

    def _take(self) -> "Piece | Job | None":
        with self._changed:
            while self._left > 0:
                ready = self._doable()
                piece = self._pieces[self._next] if self._next < len(self._pieces) else None
                if piece is not None and self._reading < (1 if ready is not None else self._threads):
                    if self._held + piece.nbytes <= self._limit:
                        self._next += 1
                        self._held += piece.nbytes
                        self._reading += 1
                        return piece
                if ready is not None:
                    self._working[ready] += 1
                    job = heapq.heappop(self._ready[ready])
                    job.passed = job.owner.failed is not None
                    return job
                self._changed.wait()
            return None

    def _doable(self) -> bool | None:
        """Which of the ready jobs, the narrow or the others, has the first that may be begun; None where none may."""
        if sum(self._working.values()) >= self._threads:
            return None
        heaps = [narrow for narrow, jobs in self._ready.items() if jobs and not (narrow and self._crowded)]
        return min(heaps, key=lambda narrow: self._ready[narrow][0].place, default=None)

    @property
    def _crowded(self) -> bool:
        return self._working[True] >= NARROW

    def _fetch(self, piece: Piece) -> None:
        error: Exception | None = None
        tensor = None
        begun = time.monotonic()
        wanted = [job.owner for job in piece.waiting if job.owner.failed is None]
        if wanted:
            try:
                tensor = self._read(piece)
            except Exception as failure:  # costs those that need it, and nobody else
                error = failure
        with self._changed:
            for owner in wanted if error is not None else ():
                owner.failed = owner.failed or error
            piece.tensor = tensor
            self.read_bytes += piece.nbytes if tensor is not None else 0
            self.read_seconds += time.monotonic() - begun
            self._reading -= 1
            for job in piece.waiting:
                self._one_less(job)
            piece.waiting.clear()
            self._changed.notify_all()

    def _do(self, job: Job) -> None:
        if not job.passed:
            try:
                job.owner.do(job.what)
            except Exception as error:  # costs its owner, and nobody else
                job.owner.failed = job.owner.failed or error
        with self._changed:
            self._left -= 1
            self._working[job.narrow] -= 1
            for piece in job.pieces:
                piece.users -= 1
                if not piece.users:
                    piece.tensor = None
                    self._held -= piece.nbytes
            for later in job.before:
                self._one_less(later)
            self._changed.notify_all()

    def _one_less(self, job: Job) -> None:
        job.lacking -= 1
        if not job.lacking:
            heapq.heappush(self._ready[job.narrow], job)
