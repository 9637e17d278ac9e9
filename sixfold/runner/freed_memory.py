"""The C library's heap while batches of one size come and go.

By default glibc returns a batch's memory to the kernel when it is freed and requests it again for the next one, and
every page is then cleared and mapped again: for a small model, a large part of the time of a pass.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3), from malloc.h, and their default values.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_TRIM_DEFAULT, _TOP_PAD_DEFAULT = 128 << 10, 0

_LARGEST = 32 << 20
"""What glibc takes from the heap at most."""
_KEPT = 128 << 20
"""Bytes of freed memory that the heap may keep."""
_GROWTH = 32 << 20
"""Bytes that it grows by, at least."""


@contextmanager
def kept_heap() -> Iterator[None]:
    """While open, freed memory stays with the process, up to _KEPT; then it is given back. Nothing without glibc."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    _set(library, {_MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _GROWTH})
    try:
        yield
    finally:
        _set(library, {_TRIM_THRESHOLD: _TRIM_DEFAULT, _TOP_PAD: _TOP_PAD_DEFAULT})
        library.malloc_trim(0)


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
