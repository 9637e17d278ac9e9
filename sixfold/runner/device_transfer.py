"""Hidden states to a device and back while it computes: one batch is copied in while another is copied out."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from sixfold.runner.hidden_states import HiddenStates

_AHEAD = 2
"""Batches in flight in each direction, besides the one that is computed."""


@contextmanager
def transfer(hidden: HiddenStates, numbers: Sequence[int], device: torch.device) -> Iterator["_Direct | _Streamed"]:
    """Iterates over (number, hidden states on `device`) of the batches `numbers`, and takes what a layer gives with
    `write(number, values)`; everything is written when it closes. On the CPU, in place."""
    if device.type != "cuda":
        yield _Direct(hidden, numbers)
        return
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        streamed = _Streamed(hidden, device, numbers, reader, writer)
        yield streamed
        streamed.finish()


class _Direct:
    def __init__(self, hidden: HiddenStates, numbers: Sequence[int]) -> None:
        self._hidden = hidden
        self._numbers = numbers

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        for number in self._numbers:
            yield number, self._hidden.read(number)

    def write(self, number: int, values: torch.Tensor) -> None:
        self._hidden.write(number, values)


class _Streamed:
    """Through pinned memory, on streams of their own: one thread fills it for the way in, another empties it."""

    def __init__(
        self,
        hidden: HiddenStates,
        device: torch.device,
        numbers: Sequence[int],
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
    ) -> None:
        self._hidden, self._device, self._numbers = hidden, device, numbers
        self._reader, self._writer = reader, writer
        self._inward, self._outward = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._leaving: deque[Future[None]] = deque()

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        coming: deque[Future[tuple[torch.Tensor, torch.cuda.Event]]] = deque()
        asked = iter(self._numbers)
        for number in self._numbers:
            while len(coming) < _AHEAD and (following := next(asked, None)) is not None:
                coming.append(self._reader.submit(self._fetch, following))
            values, arrived = coming.popleft().result()
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrived)
            values.record_stream(current)
            yield number, values

    def _fetch(self, number: int) -> tuple[torch.Tensor, torch.cuda.Event]:
        with torch.inference_mode(), torch.cuda.stream(self._inward):
            pinned = self._hidden.read(number).pin_memory()
            values = pinned.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._inward)
        return values, arrived

    def write(self, number: int, values: torch.Tensor) -> None:
        computed = torch.cuda.Event()
        computed.record(torch.cuda.current_stream(self._device))
        self._leaving.append(self._writer.submit(self._store, number, values, computed))
        while len(self._leaving) > _AHEAD:
            self._leaving.popleft().result()

    def _store(self, number: int, values: torch.Tensor, computed: torch.cuda.Event) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._outward):
            self._outward.wait_event(computed)
            values.record_stream(self._outward)
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            self._outward.synchronize()
            self._hidden.write(number, pinned)

    def finish(self) -> None:
        while self._leaving:
            self._leaving.popleft().result()
