"""The weight files of one variant while they are written, in any order: begun when needed, resumed, put on disk."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.plan import ExportPlan, PlannedFile, PlannedTensor, Unit
from sixfold.artifact.streaming.concurrent_file import GrowingFile
from sixfold.artifact.workspace import read_json, sync_folder

_GROWING = 3
"""Files that are written to the end and not on disk yet: nobody need wait for one, unless the disk is slow."""


class VariantFiles:
    """advance: called with numbers of finished bytes.

    An earlier run with the same key may have finished files, or left one whose beginning is safe: what is left of the
    others is dropped.
    """

    def __init__(self, plan: ExportPlan, folder: Path, key: str, advance: Callable[[int], None]) -> None:
        self._plan, self._folder, self._key, self._advance = plan, folder, key, advance
        self._tensors = {tensor.name: tensor for tensor in plan.tensors}
        self._files = {file.name: file for file in plan.files}
        self._tensors_of: dict[str, list[PlannedTensor]] = {file.name: [] for file in plan.files}
        for tensor in plan.tensors:
            self._tensors_of[tensor.file].append(tensor)
        self._units: dict[str, list[Unit]] = {file.name: [] for file in plan.files}
        for unit in plan.units:
            self._units[self._tensors[unit.outputs[0].name].file].append(unit)
        self._records: dict[str, FileRecord] = {}
        self._growing: dict[str, GrowingFile] = {}
        self._jobs = dict.fromkeys(self._units, 0)
        self._lock = threading.Lock()

    def unfinished(self) -> Iterator[tuple[PlannedFile, Sequence[Unit], frozenset[Unit]]]:
        """Files that are not on disk, with all their units and those that are still to be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in self._plan.files:
            record = _left_by_earlier_run(file, self._folder, self._key)
            if record is not None:
                self._records[file.name] = record
            else:
                units = self._units[file.name]
                todo, _ = self._split(file, GrowingFile.safe_bytes(file, self._folder))
                yield file, units, frozenset(todo)

    def dtype(self, name: str) -> str:
        """Of a planned tensor."""
        return self._tensors[name].dtype

    def expect_job(self, file: PlannedFile) -> None:
        """One more call of `one_job_less` is to come for a unit of the file."""
        self._jobs[file.name] += 1

    def one_job_less(self, unit: Unit) -> None:
        file = self._tensors[unit.outputs[0].name].file
        with self._lock:
            self._jobs[file] -= 1

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Final bytes of a planned tensor, from its byte `start` on. Safe to call from many threads."""
        tensor = self._tensors[name]
        self._grown(tensor.file).write(data, tensor.offset + start)
        self._advance(len(data))

    def whole(self) -> dict[str, FileRecord]:
        """Waits until every file is on disk under its name. Raises SixfoldError where the disk did not take one."""
        for file in self._plan.files:
            if file.name in self._records:
                self._advance(file.nbytes)
            else:
                self._records[file.name] = FileRecord(file.nbytes, self._grown(file.name).whole())
        return {file.name: self._records[file.name] for file in self._plan.files}

    def abandon(self) -> None:
        """Nothing more will be written: finished beginnings are kept for the next run."""
        for file in self._growing.values():
            file.abandon()

    def _grown(self, name: str) -> GrowingFile:
        with self._lock:
            if name not in self._growing:
                written = [file for file, growing in self._growing.items() if not self._jobs[file] and growing.alive]
                if len(written) >= _GROWING:
                    self._growing[written[0]].whole()
                self._growing[name] = self._begun(self._files[name])
            return self._growing[name]

    def _begun(self, file: PlannedFile) -> GrowingFile:
        growing = GrowingFile(file, self._folder, self._key)
        growing.write(memoryview(file.header), 0)
        self._advance(len(file.header))
        _, finished = self._split(file, growing.safe)
        for start, nbytes in (*finished, *_padding(file, self._tensors_of[file.name])):
            growing.finished(start, nbytes)
            self._advance(nbytes)
        return growing

    def _split(self, file: PlannedFile, safe: int) -> tuple[set[Unit], list[tuple[int, int]]]:
        """Units with an output beyond the first `safe` bytes, and the (offset, bytes) of the others' outputs."""
        todo, finished = set(), []
        for unit in self._units[file.name]:
            ranges = [(self._tensors[o.name].offset + o.start, o.nbytes) for o in unit.outputs]
            if all(start + nbytes <= safe for start, nbytes in ranges):
                finished.extend(ranges)
            else:
                todo.add(unit)
        return todo, finished


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


def _padding(file: PlannedFile, tensors: Sequence[PlannedTensor]) -> list[tuple[int, int]]:
    """Gaps between its tensors (GGUF aligns them); a file that was made longer already holds zeros there."""
    spans = sorted((t.offset, t.offset + t.nbytes) for t in tensors)
    edges = [(len(file.header), len(file.header)), *spans, (file.nbytes, file.nbytes)]
    return [(stop, start - stop) for (_, stop), (start, _) in pairwise(edges) if start > stop]
