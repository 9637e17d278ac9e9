"""The whole job, stage by stage: what a layer takes beyond start-up, beside the limits, and what stands between."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SUMMED = ("calibration", "export", "verification")
"""Stages of which limits are known; the others grow with layers by next to nothing."""
_KEYS = ("each", "start", "disk", "arithmetic", "longer")


def whole_job(found: Mapping[str, Sequence[dict[str, Any]]], layers: int) -> Iterator[str]:
    """found: `benchmarks.real_size.stages.Found` as data by depth, by where weights were read from. layers: of the
    whole model. A layer's seconds are the slope between the shallowest and the deepest run that has a stage; the rest
    of the shallowest is start-up, which is in a layer's seconds where there is one depth alone."""
    yield (
        "| weights from | stage | seconds a layer | start-up | limit: disk | limit: arithmetic | beyond the longer |"
        f" {layers} layers |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    tables = {where: {name: _row(runs, name) for name in _names(runs)} for where, runs in found.items()}
    for where, rows in tables.items():
        for name, row in rows.items():
            yield f"| {where} | {name} | {_cells(row, layers)} |"
        yield f"| {where} | all | {_cells({key: _sum(rows, key) for key in _KEYS}, layers)} |"
    for where, rows in tables.items():
        yield f"\nWith weights from the {where}, {layers} layers:\n"
        yield from _between(rows, layers)


def _between(rows: Mapping[str, Mapping[str, float]], layers: int) -> Iterator[str]:
    """What leads from what the disk alone would take to the whole, line by line."""
    yield f"- {_minutes(_sum(rows, 'disk') * layers)} the disk alone"
    for name, row in rows.items():
        if row["arithmetic"] > row["disk"]:
            more = (row["arithmetic"] - row["disk"]) * layers
            yield f"- {_minutes(more)} by which {name} computes longer than the disk reads and writes for it"
        yield f"- {_minutes((row['each'] - row['longer']) * layers)} that {name} takes beyond the longer of its limits"
    yield f"- {_minutes(_sum(rows, 'start'))} start-up"
    yield f"- {_minutes(_sum(rows, 'each') * layers + _sum(rows, 'start'))} all"


def _sum(rows: Mapping[str, Mapping[str, float]], key: str) -> float:
    return sum(row[key] for row in rows.values())


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _row(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Seconds of a layer: `each`, those of the disk and of arithmetic alone, and the longer of them; `start`: once."""
    having = [run for run in runs if name in {stage["name"] for stage in run["stages"]}]
    took = [next(stage["seconds"] for stage in run["stages"] if stage["name"] == name) for run in having]
    each = _slope(having, took)
    disk = _slope(having, [_limit(run, name, disk=True) for run in having])
    arithmetic = _slope(having, [_limit(run, name, disk=False) for run in having])
    start = max(0.0, took[0] - each * having[0]["layers"])
    return {"each": each, "start": start, "disk": disk, "arithmetic": arithmetic, "longer": max(disk, arithmetic)}


def _slope(runs: Sequence[dict[str, Any]], values: Sequence[float]) -> float:
    apart = runs[-1]["layers"] - runs[0]["layers"]
    return (values[-1] - values[0]) / apart if apart else values[0] / runs[0]["layers"]


def _limit(run: Mapping[str, Any], name: str, *, disk: bool) -> float:
    """What a stage would take if it were nothing but reading and writing, or the longest of all else."""
    beside = run["limits"].get(name, [])
    return max((sum(parts.values()) for parts in beside if ("disk" in parts) == disk), default=0.0)


def _cells(row: Mapping[str, float], layers: int) -> str:
    beyond = row["each"] - row["longer"]
    figures = (row["each"], row["start"], row["disk"], row["arithmetic"], beyond)
    return f"{' | '.join(f'{figure:.2f}' for figure in figures)} | {_minutes(row['each'] * layers + row['start'])}"


def _names(runs: Sequence[dict[str, Any]]) -> list[str]:
    held = {stage["name"] for run in runs for stage in run["stages"]}
    return [name for name in _SUMMED if name in held]
