"""How much of the source's files an export's walk reads."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from exporters.export import run as run_module
from sixfold.artifact.streaming.stream import Walked
from sixfold.checkpoint.storage.positional_reads import WeightFolder


@contextmanager
def counted_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes that the walk reads of the source's files: the headers and the fingerprint's samples were read before."""
    read, write = WeightFolder.read_into, run_module.write_files
    counts: list[int] = []
    walking = False

    def reading(self: WeightFolder, file: str, offset: int, buffer: memoryview) -> None:
        if walking:
            counts.append(len(buffer))
        read(self, file, offset, buffer)

    def writing(*arguments, **options) -> Walked:  # type: ignore[no-untyped-def]
        nonlocal walking
        walking = True
        try:
            return write(*arguments, **options)
        finally:
            walking = False

    with monkeypatch.context() as patch:
        patch.setattr(WeightFolder, "read_into", reading)
        patch.setattr(run_module, "write_files", writing)
        yield counts
