"""A layer's statistics, written while the next layer runs, and with them how far the pass has come.

Moments of some hundred experts are gigabytes, which a GPU that waited for the disk would wait for as long as it
computes. One layer is on its way at a time. What the next one reads stays as it is until then: hidden states are in
three files (sixfold.runner.hidden_states), so that a pass that is killed resumes after the last layer that was written.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from calibration.forward_pass.unfinished import Reached, write_reached
from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.workspace import replacing
from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.statistics.statistics import layer_file

HIDDEN_FILES = 3
"""Of what the layer that runs reads and gives, and of what the one before it read."""


class LayerFiles:
    """done: as far as an earlier run has come. ahead: whether `write` returns before a layer is on the disk."""

    def __init__(self, pool: ThreadPoolExecutor, work: Path, done: Reached, device: torch.device, *, ahead: bool):
        self._pool, self._work, self._ahead = pool, work, ahead
        self._done = done
        self._pending: Future[Reached] | None = None
        # Copies off a GPU would stand in line behind the next layer's products in its stream.
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def done(self) -> Reached:
        """How far the pass has come, when all that was given is on the disk. Raises what stopped the writing."""
        if self._pending is not None:
            self._done, self._pending = self._pending.result(), None
        return self._done

    def write(
        self,
        layer: int | None,
        tensors: Mapping[str, torch.Tensor],
        routed: tuple[int, ...],
        turn: int,
        checksum: int,
    ) -> None:
        """When the layer before is on the disk. tensors: statistics, not changed any more. routed: tokens by expert,
        () where there are none. turn, checksum: of the hidden states behind the layer."""
        done = self.done()
        computed = None if self._stream is None else torch.cuda.current_stream(self._stream.device).record_event()

        def written() -> Reached:
            name = layer_file(layer)
            with self._beside(computed), torch.inference_mode(), replacing(self._work / name) as temporary:
                digest = write_tensors(temporary, tensors, {"format": "pt"})
            files = {**done.files, name: FileRecord((self._work / name).stat().st_size, digest)}
            counts = {**done.routed, layer: routed} if layer is not None and routed else done.routed
            reached = Reached(done.key, turn, checksum, files, counts)
            write_reached(self._work, reached)
            return reached

        self._pending = self._pool.submit(written)
        if not self._ahead:
            self.done()

    def _beside(self, computed: Any) -> AbstractContextManager[Any]:
        """In a stream of its own, behind what was computed so far."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_event(computed)
        return torch.cuda.stream(self._stream)


@contextmanager
def layer_files(work: Path, done: Reached, device: torch.device, *, ahead: bool) -> Iterator[LayerFiles]:
    """Ends when all that was given is on the disk, whatever else happens: a layer that was computed is not lost."""
    with ThreadPoolExecutor(1) as pool:
        files = LayerFiles(pool, work, done, device, ahead=ahead)
        yield files
        files.done()
