"""Machines by name, from hardware.yaml: how much memory each device has, and how much of it an engine may use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sixfold.errors import SixfoldError, UsageError
from sixfold.sizes import parse_size

FILE = Path(__file__).parents[1] / "hardware.yaml"
ENGINES = ("vllm", "sglang", "llama.cpp")

VLLM_UTILIZATION = 0.92
"""vLLM's default of --gpu-memory-utilization (0.32): the share of a device that weights, KV cache and buffers get."""
LLAMA_CPP_MARGIN = 1024**3
"""Bytes of each device that llama.cpp leaves free when it fits a model by itself (its --fit-target)."""

_FIELDS = {"name", "also", "title", "memory", "utilization", "source", "engines", "devices", "note"}


@dataclass(frozen=True)
class Hardware:
    """One machine. name: for --hardware ("4x-h100"). title: for people. devices: how many GPUs.
    bytes_each: memory of one device. utilization: the largest share of it that one program should be given, None where
    the engine's default holds. engines: those that run on it. note: what a reader has to know, or "". also: other names
    for --hardware."""

    name: str
    title: str
    devices: int
    bytes_each: int
    utilization: float | None
    engines: tuple[str, ...]
    note: str
    also: tuple[str, ...] = ()

    def usable(self, engine: str) -> int:
        """Bytes of one device that weights, KV cache, compute buffers and reserve may use together.

        The machine's own limit, or where that is smaller: the share that vLLM takes by default; all but the margin that
        llama.cpp leaves by itself. SGLang may take all: what it leaves free is its reserve.
        """
        limit = int(self.bytes_each * (self.utilization if self.utilization is not None else 1))
        if engine == "llama.cpp":
            return min(limit, self.bytes_each - LLAMA_CPP_MARGIN)
        return min(limit, int(self.bytes_each * VLLM_UTILIZATION)) if engine == "vllm" else limit


@cache
def hardware() -> tuple[Hardware, ...]:
    """Every machine of hardware.yaml, in its order, each with all its numbers of devices.
    Raises SixfoldError, naming the entry, where the file is wrong."""
    try:
        entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SixfoldError(f"{FILE} cannot be read: {' '.join(str(error).split())}", "correct it") from error
    if not isinstance(entries, list):
        raise SixfoldError(f"{FILE} is not a list of machines", "see the comment at its head")
    machines = tuple(machine for entry in entries for machine in _machines(entry))
    names = [name for machine in machines for name in (machine.name, *machine.also)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SixfoldError(f"{FILE} has {', '.join(repeated)} more than once", "give each machine a name of its own")
    return machines


def hardware_named(name: str) -> Hardware:
    """Of a machine that may have several devices any number is known: "8x-h100". Raises UsageError if there is none,
    with the nearest name, or all of them."""
    known = {called: machine for machine in hardware() for called in (machine.name, *machine.also)}
    counted = _COUNTED.fullmatch(name.lower())
    several = {m.name.split("x-", 1)[1] for m in known.values() if m.devices > 1}
    if name.lower() in known:
        return known[name.lower()]
    if counted and counted[2] in several and int(counted[1]) > 0:
        one, count = known[counted[2]], int(counted[1])
        if name.lower() == f"{count}x-{one.name}":
            return replace(one, name=name.lower(), title=f"{count} x {one.title}", devices=count)
        raise UsageError(f"there is no hardware {name!r}", f"perhaps {count}x-{one.name} is meant")
    singles = [machine.name for machine in hardware() if machine.devices == 1]
    if counted and counted[2] in several:
        raise UsageError(f"there is no hardware {name!r}", f"a machine has one device at least, such as {counted[2]}")
    if "," in name:
        raise UsageError(f"there is no hardware {name!r}", "give --hardware once for each machine")
    ends = [one for one in singles if len(name) > 2 and one.endswith(f"-{name.lower()}")]
    near = ends or get_close_matches(name.lower(), known, n=1, cutoff=0.7)
    raise UsageError(
        f"there is no hardware {name!r}",
        f"perhaps {near[0]} is meant"
        if near
        else f"choose from {', '.join(singles)}, with 2x- or more before a GPU's, or add it to {FILE}",
    )


_COUNTED = re.compile(r"(\d+)x-?(.+)")


def _machines(entry: Any) -> list[Hardware]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise SixfoldError(f"{FILE} has an entry without a name: {entry!r}", "see the comment at its head")
    name = entry["name"]
    wrong = _wrong(entry)
    if wrong:
        raise SixfoldError(f"{FILE}: {wrong} of {name}", "see the comment at its head")
    utilization = entry.get("utilization")
    return [
        Hardware(
            name=name if count == 1 else f"{count}x-{name}",
            title=entry["title"] if count == 1 else f"{count} x {entry['title']}",
            devices=count,
            bytes_each=parse_size(entry["memory"]),
            utilization=None if utilization is None else float(utilization),
            engines=tuple(entry["engines"]),
            note=" ".join(str(entry.get("note", "")).split()),
            also=tuple(entry.get("also", ())) if count == 1 else (),
        )
        for count in entry.get("devices", [1])
    ]


def _wrong(entry: Mapping[str, Any]) -> str:
    """What is wrong with an entry, "" for nothing."""
    if unknown := set(entry) - _FIELDS:
        return f"unknown key {sorted(map(str, unknown))[0]}"
    if not isinstance(entry.get("title"), str):
        return "missing title"
    also = entry.get("also", [])
    if not isinstance(also, list) or not all(isinstance(name, str) for name in also):
        return f"also {also!r}, which is not a list of names,"
    memory = entry.get("memory")
    if not isinstance(memory, str) or not memory.rstrip().endswith("B"):
        return f"memory {memory!r} without a unit (GB or GiB)"
    try:
        parse_size(memory)
    except ValueError as error:
        return str(error)
    utilization = entry.get("utilization", 1)
    if isinstance(utilization, bool) or not isinstance(utilization, (int, float)) or not 0 < utilization <= 1:
        return f"utilization {utilization!r}, which is not between 0 and 1,"
    engines = entry.get("engines")
    if not isinstance(engines, list) or not engines or set(engines) - set(ENGINES):
        return f"engines {engines!r}, which are not all of {', '.join(ENGINES)},"
    devices = entry.get("devices", [1])
    if not isinstance(devices, list) or not all(isinstance(n, int) and n > 0 for n in devices):
        return f"devices {devices!r}, which is not a list of counts,"
    return ""
