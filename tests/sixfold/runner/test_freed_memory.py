import ctypes
import resource
from pathlib import Path

import pytest
import torch

from sixfold.runner import freed_memory

GLIBC = hasattr(ctypes.CDLL(None), "malloc_trim")
TENSOR = 16 << 20


def batch() -> None:
    """Three tensors that are there together, as in a layer."""
    held = [torch.empty(TENSOR, dtype=torch.uint8).fill_(1) for _ in range(3)]
    del held


def faults_of(batches: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(batches):
        batch()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_memory_that_a_batch_leaves_serves_the_next_one() -> None:
    pages = 3 * TENSOR // resource.getpagesize()
    with freed_memory.kept_heap():
        for _ in range(5):  # until the heap has found its places
            batch()
        assert faults_of(10) < pages
        held = resident()
    assert resident() < held - TENSOR  # given back


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    with freed_memory.kept_heap():
        batch()
