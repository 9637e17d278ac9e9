"""How long rounding takes: measured on a matrix of random weights, and foretold for plans."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import torch
from gguf import GGMLQuantizationType

from exporters.export.planning import Planned, compensates
from exporters.ggml.compensated import compensated, quantize_compensated
from exporters.ggml.kernels import encodes_on_gpu, quantize
from exporters.numerics import awq_packing, fp8, nvfp4
from exporters.numerics.compensated import fp8_channels, int4_groups, nvfp4_groups
from exporters.rounding.device import device
from exporters.rounding.factor import Factor, factor
from sixfold.artifact.streaming.torch_threads import torch_threads
from sixfold.model.source import Source
from sixfold.runner.engine import HERE, Needs
from sixfold.runner.machine_speed import COMPENSATED, MachineSpeed, Rounding, SideBySide, timed

_ROWS, _CHANNELS = 512, (512, 1024)
_GPU_ROWS, _GPU_CHANNELS = 4096, (1536, 3072)
_SIDE_BY_SIDE = 32
"""Matrices that a GPU compensates at a time, at least, where experts have the sizes of today's: steps follow the
columns, and one matrix would leave most of it idle."""
_FEW_ROWS = 64
_COMPILERS = 8
_GROUP = 128
_GGUF = ("Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q8_0")
FACTOR = "factor"
"""Of an input's second moments, as of a matrix of weights."""

_Round = Callable[[torch.Tensor], object]


def rounding_speed() -> dict[str, Rounding]:
    """Of every type that a shipped recipe makes. Some seconds on a core, and on a GPU with `compile_all` done."""
    with torch_threads(1):
        return (
            {name: _nearest(work, at_gpu=at_gpu) for name, (work, at_gpu) in _plain().items()}
            | {name + COMPENSATED: _grown(name) for name in ("fp8", "nvfp4", "awq", *_GGUF) if _form(name)}
            | {FACTOR: _factors()}
        )


def compile_all() -> None:
    """By several processes, a type each: Triton keeps them on disk, and one by one they take a minute or two. What goes
    wrong there shows where they are run."""
    processes = min(_COMPILERS, (os.cpu_count() or 1) // 2)
    if device().type == "cpu" or processes < 2:
        return
    names = [*_GGUF, *(name + COMPENSATED for name in ("fp8", "nvfp4", "awq", *_GGUF))]
    with suppress(Exception):
        HERE.together(_compile, [names[first::processes] for first in range(processes)], processes, Needs())


def _compile(rank: int, _attempt: str, shares: Sequence[Sequence[str]]) -> None:
    for name in shares[rank]:
        compile_kernels(name)


def compile_kernels(name: str) -> None:
    """What weights of a type that `has_kernels` are rounded by on a GPU, by rounding a few: Triton keeps it on disk."""
    work = _form(name.removesuffix(COMPENSATED))
    if not name.endswith(COMPENSATED):
        weight = _random(_FEW_ROWS, _GPU_CHANNELS[-1]).to(device())
        quantize(weight, GGMLQuantizationType[name], _ones(weight))
        quantize(weight, GGMLQuantizationType[name])  # as of embeddings, whose inputs have no importance
    elif work is not None:
        for columns in _GPU_CHANNELS:
            work([_random(_FEW_ROWS, columns)], factor(_moments(columns)))


def has_kernels(name: str) -> bool:
    """Whether a type's weights are rounded by kernels on this machine's GPU, and not by PyTorch's own operations."""
    kind = name.removesuffix(COMPENSATED)
    if kind not in GGMLQuantizationType.__members__:
        return name in ("fp8+", "nvfp4+", "awq+")
    qtype = GGMLQuantizationType[kind]
    return compensated(qtype) if name.endswith(COMPENSATED) else encodes_on_gpu(qtype)


def _plain() -> dict[str, tuple[_Round, bool]]:
    """By type, and whether it runs on a GPU here."""
    at_gpu = device().type != "cpu"
    found: dict[str, tuple[_Round, bool]] = {
        "fp8": (lambda weight: fp8.quantize_channels(weight, ""), at_gpu),
        "nvfp4": (lambda weight: nvfp4.quantize_group([weight], [""]), at_gpu),
        "awq": (lambda weight: awq_packing.quantize(weight, _GROUP, None, None, _ones(weight)), at_gpu),
    }
    for name in _GGUF:
        qtype = GGMLQuantizationType[name]
        found[name] = (partial(_ggml, qtype), encodes_on_gpu(qtype))
    return found


def _ggml(qtype: GGMLQuantizationType, weight: torch.Tensor) -> torch.Tensor:
    return quantize(weight, qtype, _ones(weight))


def _ones(weight: torch.Tensor) -> torch.Tensor:
    return torch.ones(weight.shape[1], device=weight.device)


def _nearest(work: _Round, *, at_gpu: bool) -> Rounding:
    rows, channels = (_GPU_ROWS, _GPU_CHANNELS[-1]) if at_gpu else (_ROWS, _CHANNELS[-1])
    weight = _random(rows, channels).to(device() if at_gpu else "cpu")
    return Rounding(timed(lambda: work(weight)) / weight.numel(), at_gpu=at_gpu)


def _grown(name: str) -> Rounding:
    """Compensated: products take longer the more channels there are."""
    at_gpu = device().type != "cpu"
    rows, channels, number = (_GPU_ROWS // 2, _GPU_CHANNELS, _SIDE_BY_SIDE) if at_gpu else (_ROWS, _CHANNELS, 1)
    work = _form(name)
    assert work is not None  # see rounding_speed
    seconds = []
    for columns in channels:
        known = factor(_moments(columns).repeat(number, 1, 1))
        weights = [_random(rows, columns)] * number
        seconds.append(timed(partial(work, weights, known), 1) / (number * rows * columns))
    return _by_channels(channels, seconds, at_gpu)


def _factors() -> Rounding:
    at_gpu = device().type != "cpu"
    channels = _GPU_CHANNELS if at_gpu else _CHANNELS
    seconds = [timed(partial(factor, _moments(columns))) / columns**2 for columns in channels]
    return _by_channels(channels, seconds, at_gpu)


def _moments(channels: int) -> torch.Tensor:
    """float32 [1, C, C]."""
    inputs = _random(2 * channels, channels).float().to(device())
    return (inputs.mT @ inputs / len(inputs))[None]


def _by_channels(channels: Sequence[int], seconds: Sequence[float], at_gpu: bool) -> Rounding:
    """seconds: of a weight in matrices of so many channels."""
    channel = max(0.0, (seconds[1] - seconds[0]) / (channels[1] - channels[0]))
    return Rounding(max(seconds[1] - channel * channels[1], 0.0), channel, at_gpu)


def _form(name: str) -> Callable[[list[torch.Tensor], Factor], object] | None:
    """Of weights side by side, each with a factor."""
    if name == "fp8":
        return lambda weights, known: fp8_channels(weights, [""] * len(weights), known)
    if name == "nvfp4":
        return lambda weights, known: nvfp4_groups([[w] for w in weights], [[""] for _ in weights], known)
    if name == "awq":
        return lambda weights, known: int4_groups(weights, [""] * len(weights), _GROUP, known)
    qtype = GGMLQuantizationType[name]
    if not compensated(qtype):
        return None
    return lambda weights, known: quantize_compensated(weights, qtype, known, [""] * len(weights))


def _random(rows: int, columns: int) -> torch.Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()


def export_seconds(source: Source, planned: Sequence[Planned], speed: MachineSpeed) -> SideBySide:
    """Of one walk for all that is planned: what the "disk", the "cores" and the "gpu" would take by themselves. Each
    goes on beside the others, so the walk takes about as long as the slowest. Weights and second moments are moved to
    the GPU once for all formats, between what it does."""
    plans = [(entry.recipe, entry.plan) for entry in planned if entry.plan is not None]
    written = sum(plan.nbytes for _, plan in plans)
    read = sum(tensor.nbytes for tensor in source.checkpoint.as_stored.tensors.values())
    cores, gpu = written / speed.digest, 0.0
    made: set[object] = set()
    moved: dict[object, float] = {}
    inputs = {linear.weight: (linear.site, linear.expert) for linear in source.architecture.linears}
    for recipe, plan in plans:
        shared = not compensates(recipe)
        for unit in plan.units:
            kind = unit.encoding.partition(" ")[0]
            rounding = _known(kind, speed.rounding, compensated=not shared)
            key = (kind, tuple(f"{part.name} {part.start}" for part in unit.inputs))
            if rounding is None or (shared and kind == "nvfp4" and key in made):
                continue  # copied; or the same as another variant's, which is made once
            made.add(key)
            seconds = 0.0
            for part in unit.inputs:
                row = source.checkpoint.named(part.name).shape[1:]
                channels = row[-1] if row else 1
                weights = (part.stop - part.start) * torch.Size(row).numel()
                seconds += weights * rounding.of(channels)
                if rounding.at_gpu:
                    moved[part.name, part.start] = 2.0 * weights
                place = inputs.get(part.name)
                if FACTOR in speed.rounding and place is not None and not shared and place not in made:
                    made.add(place)  # one for all formats
                    seconds += channels**2 * speed.rounding[FACTOR].of(channels)
                    if rounding.at_gpu:
                        moved[place] = 2.0 * channels**2
            cores, gpu = (cores, gpu + seconds) if rounding.at_gpu else (cores + seconds, gpu)
    return (
        {"disk": speed.disk_seconds(read, written)},
        {"cores": cores / speed.cores},
        {"gpu": gpu, "moving to the GPU": sum(moved.values()) / speed.moved},
    )


def _known(kind: str, rounding: Mapping[str, Rounding], *, compensated: bool) -> Rounding | None:
    found = rounding.get(kind + COMPENSATED) if compensated else None
    return found or rounding.get(kind)
