"""Units of work as tasks of a Ray cluster whose machines see the same files under the same paths.

Ray chooses the machine by what a unit needs, moves what it gives, and does it again elsewhere where a machine is lost.
Nothing is written by a task: files have one writer, which asked for it. So a lost machine costs the units it held.
"""

import os
import socket
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sixfold.errors import SixfoldError
from sixfold.runner.engine import Engine, Needs

_KEPT = 16
"""Shared values that a worker process keeps: one for each format of a run, and some."""
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
        self.slots = max(1, _TO_COME * int(found.get("CPU", 1)))
        self._cores = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
        self._task = ray.remote(_do)

    def share(self, value: Any) -> Any:
        return self._ray.put(value)

    def call(self, work: Callable[..., Any], given: Any, *args: Any, needs: Needs) -> Any:
        options = self._options(needs)
        return self._result(self._task.options(**options).remote(work, [given], str(Path.cwd()), *args))

    def _options(self, needs: Needs) -> dict[str, Any]:
        return {"num_cpus": min(needs.cores, self._cores), "num_gpus": needs.gpus, "memory": needs.memory}

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SixfoldError):
                raise SixfoldError(error.cause.what, error.cause.remedy) from None
            raise
        except self._ray.exceptions.RayError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
            raise SixfoldError(f"Ray lost a task ({reason})", "run the same command again: it resumes") from error


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
