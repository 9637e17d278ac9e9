"""Tables of what was found at several depths: time and memory by stage, slopes, and what the plan foretold."""

from collections.abc import Iterator, Sequence
from typing import Any

from sixfold.sizes import size


def report(found: Sequence[dict[str, Any]], layers: int) -> str:
    """found: `benchmarks.real_size.stages.Found` as data, by depth. layers: of the whole model."""
    tables = (_checkpoints(found), _stages(found), _parts(found), _slopes(found, layers), _foretold(found))
    return "\n\n".join("\n".join(table) for table in tables) + "\n" + "\n".join(_checks(found))


def _checkpoints(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    for one in found:
        written = f", {size(one['written'])} written" if one["written"] else ""
        yield f"{one['layers']} layers: {one['tensors']:,} tensors, {size(one['nbytes'])} drawn{written}"


def _stages(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| stage | layers | seconds | CPU seconds | host peak | in the first half, and the second | GPU peak |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name in _names(found):
        for layers, stage in _of(found, name):
            took = f"{stage['seconds']:.1f} | {stage['cpu']:.1f}"
            halves = ", ".join(size(peak) for peak in stage["halves"])
            yield f"| {name} | {layers} | {took} | {size(stage['host'])} | {halves} | {_device(stage)} |"


def _parts(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Of stages that tell how far they are; what is left is done before, between and behind these."""
    yield "| stage | layers | of its seconds |"
    yield "|---|---:|---|"
    for name in _names(found):
        for layers, stage in _of(found, name):
            if stage["parts"]:
                named = ", ".join(f"{part} {seconds:.1f}" for part, seconds in stage["parts"].items())
                yield f"| {name} | {layers} | {named} |"


def _slopes(found: Sequence[dict[str, Any]], layers: int) -> Iterator[str]:
    """Between the shallowest and the deepest run, and how far those between are from that line: of seconds, and of CPU
    seconds, in which other work on the machine does not show."""
    head = ("seconds a layer", "off the line", "CPU seconds a layer", "off the line", "peak, deepest over shallowest")
    yield f"| stage | {' | '.join(head)} | {layers} layers, by the slope |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name in _names(found):
        runs = list(_of(found, name))
        (low, first), (high, last) = runs[0], runs[-1]
        if low == high:
            continue
        peak = "device" if last["device"] else "host"
        whole = last["seconds"] + (last["seconds"] - first["seconds"]) / (high - low) * (layers - high)
        lines = " | ".join(_line(runs, key) for key in ("seconds", "cpu"))
        yield f"| {name} | {lines} | {last[peak] / max(first[peak], 1):.2f} | {whole:.0f} s |"


def _line(runs: Sequence[tuple[int, dict[str, Any]]], key: str) -> str:
    (low, first), (high, last) = runs[0], runs[-1]
    each = (last[key] - first[key]) / (high - low)
    on = [first[key] + each * (depth - low) for depth, _ in runs[1:-1]]
    off = max((abs(stage[key] / there - 1) for (_, stage), there in zip(runs[1:-1], on, strict=True)), default=0.0)
    return f"{each:.2f} | {f'{off:.0%}' if on and each > 0 else '-'}"


def _device(stage: dict[str, Any]) -> str:
    return size(stage["device"]) if stage["device"] else "-"


def _foretold(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| stage | layers | took | foretold | took / foretold | bound by |"
    yield "|---|---:|---:|---:|---:|---|"
    for name in _names(found):
        for layers, stage in _of(found, name):
            foretold = next(one for one in found if one["layers"] == layers)["foretold"].get(name)
            if foretold:
                seconds, bound = foretold
                yield (
                    f"| {name} | {layers} | {stage['seconds']:.1f} s | {seconds:.1f} s"
                    f" | {stage['seconds'] / max(seconds, 1e-9):.2f} | {bound} |"
                )
    for one in found:
        calibration = next((stage for stage in one["stages"] if stage["name"] == "calibration"), None)
        if calibration is not None and one["memory"]:
            device = f", GPU {size(calibration['device'])} of {size(one['memory']['device'])}"
            yield (
                f"Memory of calibrating {one['layers']} layers, of what was foretold: host {size(calibration['host'])}"
                f" of {size(one['memory']['host'])}{device if calibration['device'] else ''}."
            )


def _checks(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    for one in found:
        if one["verified"]:
            passed = [name for name, well in one["verified"].items() if well]
            failed = [name for name, well in one["verified"].items() if not well]
            yield f"{one['layers']} layers, kept and verified: {len(passed)} of {len(one['verified'])} passed" + (
                f"; not {', '.join(failed)}" if failed else ""
            )
        elif one["sha256"]:
            yield f"{one['layers']} layers: hashed and let go of, {len(one['sha256'])} files; weights not verified"


def _names(found: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(stage["name"] for one in found for stage in one["stages"]))


def _of(found: Sequence[dict[str, Any]], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for one in found:
        for stage in one["stages"]:
            if stage["name"] == name:
                yield one["layers"], stage
