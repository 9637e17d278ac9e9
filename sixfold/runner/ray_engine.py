"""Units of work as tasks of a Ray cluster whose machines see the same files under the same paths.

Ray chooses the machine by what a unit needs, moves what it gives, and does it again elsewhere where a machine is lost.
Nothing is written by a task: files have one writer, which asked for it. So a lost machine costs the units it held.
"""

import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch

from sixfold.errors import SixfoldError
from sixfold.runner.engine import Engine, Needs

_KEPT = 16
"""Shared values that a worker process keeps: one for each format of a run, and some."""
PATIENCE = 600.0
"""Seconds to wait for room for all that work together: for machines that take the place of lost ones."""
_EVERY = 2.0
"""Seconds between two looks at whether all machines that work together are there."""
_TO_COME = 2
"""Tasks asked for, for every core of the cluster: while one is done, the next one's place is decided."""


def ray_engine(address: str | None) -> Engine:
    """address: of a running cluster ("auto", "10.0.0.1:6379", "ray://..."); None for one of this machine alone, which
    ends with this process. Raises SixfoldError where Ray is not installed, or nothing answers there."""
    try:
        import ray
    except ImportError:
        raise SixfoldError(
            "Ray is not installed here", "run `pip install 'ray>=2.50,<3'`, or leave out --engine"
        ) from None
    try:
        _reach(address)
        if not ray.is_initialized():
            ray.init(address=address, include_dashboard=None if address else False, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise SixfoldError(f"no Ray cluster answers at {address} ({reason})", "see `ray status` there") from error
    return RayEngine()


def _reach(address: str | None) -> None:
    """Raises OSError where nothing listens at "host:port", for which Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class RayEngine:
    """Of the cluster that this process is connected to. slots: by the cores of the cluster when it was made."""

    away = True

    def __init__(self) -> None:
        import ray

        self._ray = ray
        found = ray.cluster_resources()
        self.gpus = int(found.get("GPU", 0))
        self.slots = max(1, _TO_COME * int(found.get("CPU", 1)))
        self._cores = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
        self._task = ray.remote(_do)

    def share(self, value: Any) -> Any:
        return self._ray.put(value)

    def call(self, work: Callable[..., Any], given: Any, *args: Any, needs: Needs) -> Any:
        options = self._options(needs)
        return self._result(self._task.options(**options).remote(work, [given], str(Path.cwd()), *args))

    def together(self, work: Callable[[int, str, Any], None], given: Any, size: int, needs: Needs) -> None:
        """A task of its own asks for them, so that beginning again is Ray's as well. It is on this machine: with that,
        the command would be lost too."""
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        everyone = self._ray.remote(_together).options(
            num_cpus=0, max_retries=3, retry_exceptions=[_LostError], scheduling_strategy=here
        )
        self._result(everyone.remote(work, [given], str(Path.cwd()), size, self._options(needs), PATIENCE))

    def _options(self, needs: Needs) -> dict[str, Any]:
        return {"num_cpus": min(needs.cores, self._cores), "num_gpus": needs.gpus, "memory": needs.memory}

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SixfoldError):
                raise SixfoldError(error.cause.what, error.cause.remedy) from None
            if not isinstance(error.cause, _LostError):
                raise
            raise SixfoldError(
                f"tasks that work together were lost again and again ({error.cause})",
                "run the same command again: it resumes",
            ) from error
        except self._ray.exceptions.RayError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise SixfoldError(f"Ray lost a task ({reason})", "run the same command again: it resumes") from error


class _LostError(Exception):
    """One of several that work together is gone."""


_HELD: "OrderedDict[str, Any]" = OrderedDict()


def _value(given: list[Any]) -> Any:
    """given: a reference, in a list, where Ray leaves it alone: a worker fetches its value once, not for every task."""
    import ray

    (reference,) = given
    key = reference.hex()
    if key not in _HELD:
        _HELD[key] = ray.get(reference)
        while len(_HELD) > _KEPT:
            _HELD.popitem(last=False)
    return _HELD[key]


def _do(work: Callable[..., Any], given: list[Any], folder: str, *args: Any) -> Any:
    """In a worker. folder: that relative paths count from."""
    os.chdir(folder)
    torch.set_num_threads(1)
    return work(_value(given), *args)


def _rank(rank: int, attempt: str, work: Callable[[int, str, Any], None], given: list[Any], folder: str) -> None:
    os.chdir(folder)
    work(rank, attempt, _value(given))


def _together(
    work: Callable[..., None], given: list[Any], folder: str, size: int, options: dict[str, Any], patience: float
) -> None:
    """In a worker, which asks for room for all at once: those that had some would wait for the others forever."""
    import ray
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    each = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options["memory"]}
    room = placement_group([{name: value for name, value in each.items() if value}] * size, strategy="SPREAD")
    task = ray.remote(_rank).options(
        max_retries=0, scheduling_strategy=PlacementGroupSchedulingStrategy(room), **options
    )
    attempt = token_hex(8)
    try:
        if not room.wait(patience):
            raise SixfoldError(
                f"for {patience:.0f} seconds the cluster had no room for {size} tasks that work together",
                "add machines, or run the same command again: it resumes with those that are there",
            )
        left = [task.remote(rank, attempt, work, given, folder) for rank in range(size)]
        while left:
            done, left = ray.wait(left, timeout=_EVERY)
            ray.get(done)
            if placement_group_table(room)["state"] != "CREATED":  # a task may not have begun there, and waits
                raise _LostError("a machine was lost")
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, SixfoldError):
            raise SixfoldError(cause.what, cause.remedy) from None
        raise _LostError(next(iter(str(cause or error).splitlines()), type(error).__name__)) from None
    finally:
        remove_placement_group(room)  # and end what is left in it
