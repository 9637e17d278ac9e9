"""One plan that is carried out, and how far it is."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import CAST
from sixfold.artifact.streaming.pieces import Pieces
from sixfold.artifact.streaming.variant_files import VariantFiles
from sixfold.artifact.streaming.walk import Piece
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError

_BLOCK = 16 << 20  # bytes copied at a time
_TORCH_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_CLOCK = threading.Lock()

Encode = Callable[[Unit, Sequence[torch.Tensor]], Sequence[torch.Tensor]]
EncodeAll = Callable[[Sequence[Unit], Sequence[Sequence[torch.Tensor]] | None], Sequence[Sequence[torch.Tensor]]]


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
    takes turns at a GPU. away: `encode` is given no inputs and reads them itself, and so does `decide`.
    """

    plan: ExportPlan
    folder: Path
    key: str
    split: Callable[[Sequence[Unit]], Sequence[Sequence[Unit]]]
    encode: EncodeAll
    decide: Callable[[int, Checkpoint], None] = _nothing
    searched: Mapping[int, Sequence[TensorSlice]] = field(default_factory=dict)
    at_gpu: bool = False
    away: bool = False


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


def singly(units: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """A `split` for units that are encoded one by one."""
    return [(unit,) for unit in units]


def one_by_one(encode: Encode) -> EncodeAll:
    return lambda units, inputs: [encode(*one) for one in zip(units, inputs or (), strict=True)]


@dataclass(frozen=True)
class Batch:
    """todo: units of its file that are still to be written."""

    units: Sequence[Unit]
    todo: frozenset[Unit]


@dataclass(frozen=True)
class Rows:
    """Of a unit that is copied: the rows that a piece has."""

    unit: Unit
    piece: Piece


class Work:
    """One writing, and how far it is. See sixfold.artifact.streaming.walk.Owner."""

    def __init__(self, writing: Writing, pieces: Pieces, advance: Callable[[int], None]) -> None:
        self.failed: Exception | None = None
        self.writing = writing
        self.files = VariantFiles(writing.plan, writing.folder, writing.key, advance)
        self._pieces, self._checkpoint = pieces, pieces.checkpoint
        self.seconds = dict.fromkeys(("decide", "encode", "write"), 0.0)

    def do(self, what: object) -> None:
        """what: a layer to be decided, a Batch to be encoded, or Rows to be copied."""
        if isinstance(what, int):
            with self._timed("decide"):
                self.writing.decide(what, self._checkpoint)
        elif isinstance(what, Rows):
            self._copy(what.unit, what.piece)
        elif isinstance(what, Batch):
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

    def _encode(self, batch: Batch) -> None:
        inputs = None
        if not self.writing.away:
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


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
