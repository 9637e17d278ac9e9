"""How stages report progress, without knowing how it is displayed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Opens a progress display; the context's value is called with amounts of finished work, from any thread."""

    def __call__(self, description: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]: ...


@contextmanager
def unseen(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Progress that is not displayed."""
    yield lambda amount: None
