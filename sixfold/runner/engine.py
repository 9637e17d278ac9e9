"""Where units of work are done: in the threads that ask for them, or (`ray_engine.py`) on other machines."""

from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Protocol

from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from sixfold.errors import SixfoldError


@dataclass(frozen=True)
class Needs:
    """Of a unit: processor cores, bytes of host memory, and the share of a GPU."""

    cores: int = 1
    memory: int = 0
    gpus: float = 0.0


class Engine(Protocol):
    """Units are pure: done twice, or on another machine of the same kind, they give the same.

    away: whether they are done by other processes, which see the same files and read a unit's inputs themselves.
    slots: how many are done at a time; 0 where that is for the caller to choose. gpus: that other machines have for a
    calibration; 0 where it is run on what this machine has.
    """

    away: bool
    slots: int
    gpus: int

    def share(self, value: Any) -> Any:
        """What `call` and `together` take as `given`: a value that many units need, which is moved once."""
        ...

    def call(self, work: Callable[..., Any], given: Any, *args: Any, needs: Needs) -> Any:
        """work(value of `given`, *args), once it is done. Safe to call from many threads."""
        ...

    def together(self, work: Callable[[int, str, Any], None], given: Any, size: int, needs: Needs) -> None:
        """work(rank, attempt, value of `given`) for every rank below `size` at the same time: they wait for each other.
        Where a machine is lost all begin again, as another attempt. Raises SixfoldError where there is no room for all,
        or where a process is lost again and again."""
        ...


class Here:
    """In the caller's own thread."""

    away = False
    slots = 0
    gpus = 0

    def share(self, value: Any) -> Any:
        return value

    def call(self, work: Callable[..., Any], given: Any, *args: Any, needs: Needs) -> Any:
        return work(given, *args)

    def together(self, work: Callable[[int, str, Any], None], given: Any, size: int, needs: Needs) -> None:
        """In `size` new processes."""
        attempt = token_hex(8)
        failures = multiprocessing.get_context("spawn").SimpleQueue()
        try:
            spawn(_process, (work, attempt, given, failures), nprocs=size)
        except (ProcessRaisedException, ProcessExitedException) as error:
            if not failures.empty():
                raise SixfoldError(*failures.get()) from error
            reason = str(error).strip().splitlines()[-1].rstrip(".")
            raise SixfoldError(f"one of {size} processes ended early ({reason})", "run it again: it resumes") from error


def _process(rank: int, work: Callable[[int, str, Any], None], attempt: str, given: Any, failures: Any) -> None:
    try:
        work(rank, attempt, given)
    except SixfoldError as error:
        failures.put((error.what, error.remedy))
        raise


HERE = Here()
