"""Progress that nobody looks at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def silent(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda amount: None
