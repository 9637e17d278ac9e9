"""Where units of work are done: in the threads that ask for them, or (`ray_engine.py`) on other machines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Needs:
    """Of a unit: processor cores, bytes of host memory, and the share of a GPU."""

    cores: int = 1
    memory: int = 0
    gpus: float = 0.0


class Engine(Protocol):
    """Units are pure: done twice, or on another machine of the same kind, they give the same.

    away: whether they are done by other processes, which see the same files and read a unit's inputs themselves.
    slots: how many are done at a time; 0 where that is for the caller to choose.
    """

    away: bool
    slots: int

    def share(self, value: Any) -> Any:
        """What `call` takes as `given`: a value that many units need, which is moved once."""
        ...

    def call(self, work: Callable[..., Any], given: Any, *args: Any, needs: Needs) -> Any:
        """work(value of `given`, *args), once it is done. Safe to call from many threads."""
        ...


class Here:
    """In the caller's own thread."""

    away = False
    slots = 0

    def share(self, value: Any) -> Any:
        return value

    def call(self, work: Callable[..., Any], given: Any, *args: Any, needs: Needs) -> Any:
        return work(given, *args)


HERE = Here()
