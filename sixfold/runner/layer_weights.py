"""Weights of a part of the model, from the checkpoint's tensors into transformers' parameters, read as bytes move.

transformers stacks the experts of a layer into one parameter. Each expert's matrix is read straight into its place
there, so that a layer is never in memory twice; conversions of other kinds are left to transformers' own code.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import nn

from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.expert_slice import StackLayout
from sixfold.errors import SixfoldError
from sixfold.model.module_map import Placement, converters_of

ReadInto = Callable[[str, torch.Tensor], None]
"""Fills a contiguous tensor of the shape of the named on-disk tensor, converting to its dtype; of the CPU, unless the
buffers it is read into are elsewhere."""

_READERS = 8


@dataclass(frozen=True)
class Piece:
    """One on-disk tensor within a parameter: a part of one expert's matrices, or all of it (expert None).

    place: its position among the checkpoint's tensors, which are in the order of files and offsets.
    """

    name: str
    expert: int | None
    part: int
    layout: StackLayout
    place: int

    def within(self, values: torch.Tensor) -> torch.Tensor:
        """Where it lies in the parameter's values; a view, which need not be contiguous."""
        return values if self.expert is None else self.layout.rows_of(values[self.expert], self.part)


@dataclass(frozen=True)
class ParameterSource:
    """What one parameter (or buffer) of the model is made of.

    pieces: tensors that are parts of it as they are. converter: where there are none, transformers' own conversion of
    `converted`: (its pattern, on-disk name, shape) of each tensor, and first: the first parameter that comes of it.
    """

    parameter: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...] = ()
    converter: Any = None
    converted: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    first: str = ""

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def parameter_sources(
    model: nn.Module,
    placements: Mapping[str, Placement],
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    in_float32: Iterable[str],
) -> dict[str, ParameterSource]:
    """Parameter name -> what it is made of, for all that the checkpoint holds.

    in_float32: parts of dotted names (correction biases, transformers' _keep_in_fp32_modules_strict) whose parameters
    stay float32 whatever `dtype` is.
    """
    converters = converters_of(model)
    state = model.state_dict()
    exact = {re.escape(part) for part in in_float32}
    kept = re.compile(rf"(^|\.)({'|'.join(sorted(exact))})(\.|$)") if exact else None
    places = {name: place for place, name in enumerate(checkpoint.tensors)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name, place in placements.items():
        for parameter in place.parameters:
            groups[parameter].append(name)
    found = {}
    for parameter, names in groups.items():
        meta = state[parameter]
        want = meta.dtype if not meta.is_floating_point() else dtype if meta.dtype != torch.float32 else torch.float32
        if kept is not None and kept.search(parameter):
            want = torch.float32
        patterns = {placements[name].pattern for name in names} - {""}
        converter = next((c for c in converters if patterns & set(c.source_patterns)), None)
        shape = tuple(meta.shape)
        pieces = _pieces(names, placements, places, converter)
        if pieces:
            found[parameter] = ParameterSource(parameter, shape, want, pieces)
        else:
            ordered = sorted(names, key=_natural)
            converted = tuple((placements[name].pattern, name, checkpoint.tensors[name].shape) for name in ordered)
            found[parameter] = ParameterSource(
                parameter, shape, want, (), converter, converted, placements[names[0]].parameter
            )
    return found


def _pieces(
    names: Sequence[str],
    placements: Mapping[str, Placement],
    places: Mapping[str, int],
    converter: Any,
) -> tuple[Piece, ...]:
    """() where a parameter is more than its tensors side by side."""
    layout = placements[names[0]].layout
    if layout is not None:
        return tuple(Piece(n, placements[n].expert, placements[n].part, layout, places[n]) for n in names)
    if converter is None:
        (name,) = names
        return (Piece(name, None, 0, StackLayout(1, False, False), places[name]),)
    operations = [(type(op).__name__, getattr(op, "dim", None)) for op in converter.operations]
    if operations not in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)]):
        return ()
    if any(placements[name].expert is None or placements[name].also for name in names):
        return ()
    layout = StackLayout(len(converter.source_patterns), interleaved=False, transposed=False)
    return tuple(Piece(n, placements[n].expert, placements[n].part, layout, places[n]) for n in names)


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))


class HostBuffers:
    """Host tensors that are used again: layers have equal shapes, and fresh (above all pinned) pages cost more than the
    copy into them. device: where they are instead, for readers that compute there what they fill in."""

    def __init__(self, *, pinned: bool, device: torch.device | None = None) -> None:
        self._pinned = pinned
        self._device = device
        self._free: dict[tuple[tuple[int, ...], torch.dtype], list[torch.Tensor]] = defaultdict(list)
        self._lock = Lock()

    @property
    def readers(self) -> int:
        """Threads that fill them. On a GPU one: nearly all that is copied is there already, in steps that are too small
        to share."""
        return 1 if self._device is not None and self._device.type == "cuda" else _READERS

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        with self._lock:
            if free := self._free[(shape, dtype)]:
                return free.pop()
        with torch.inference_mode(False):  # an inference tensor could not be filled by another thread
            return torch.empty(shape, dtype=dtype, device=self._device, pin_memory=self._pinned)

    def give_back(self, tensors: Iterable[torch.Tensor]) -> None:
        with self._lock:
            for tensor in tensors:
                self._free[(tuple(tensor.shape), tensor.dtype)].append(tensor)

    def clear(self) -> None:
        """Gives the memory back, where the next part of the model has other shapes."""
        with self._lock:
            self._free.clear()


def read_parameters(
    sources: Sequence[ParameterSource], read_into: ReadInto, buffers: HostBuffers, model: nn.Module
) -> dict[str, torch.Tensor]:
    """Parameter name -> its values on the host, in the dtype of its source. Raises what `read_into` raises."""
    found = {source.parameter: buffers.take(source.shape, source.dtype) for source in sources if source.pieces}
    work = [(piece, found[source.parameter]) for source in sources for piece in source.pieces]
    work.sort(key=lambda item: item[0].place)  # as the disk has them

    def fill(item: tuple[Piece, torch.Tensor]) -> None:
        piece, values = item
        place = piece.within(values)
        if place.is_contiguous():
            read_into(piece.name, place)
        else:
            read = torch.empty(place.shape, dtype=place.dtype, device=place.device)
            read_into(piece.name, read)
            place.copy_(read)

    if buffers.readers == 1:
        for item in work:  # by this thread, as the stream of a GPU that work is given to is a thread's own
            fill(item)
    else:
        with ThreadPoolExecutor(buffers.readers) as readers:
            for _ in readers.map(fill, work):
                pass
    for source in sources:
        if not source.pieces:
            found[source.parameter] = _converted(source, read_into, model)
    return found


def _converted(source: ParameterSource, read_into: ReadInto, model: Any) -> torch.Tensor:
    """By transformers' own conversion, called tensor by tensor as its loader does."""
    mapping = deepcopy(source.converter)
    for pattern, name, shape in source.converted:
        values = torch.empty(shape, dtype=source.dtype)
        read_into(name, values)
        mapping.add_tensor(source.first, name, pattern, values)
    made = mapping.convert(source.first, model=model, config=model.config)
    value = made[source.parameter] if len(made) > 1 else next(iter(made.values()))
    result: torch.Tensor = value[0] if isinstance(value, list) else value
    return result.contiguous()


def attach(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put values in the place of the model's parameters and buffers."""
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        if leaf in module._buffers:
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def detach(model: nn.Module, names: Iterable[str]) -> None:
    """Leave nothing but shapes in the place of the values."""
    attach(model, {name: _get(model, name).to("meta") for name in names})


def _get(model: nn.Module, name: str) -> torch.Tensor:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    found = module._buffers[leaf] if leaf in module._buffers else module._parameters[leaf]
    assert found is not None
    return found.detach()


def check_attached(model: nn.Module, prefix: str) -> None:
    """Raises SixfoldError where something under `prefix` still has no values."""
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix) and tensor.is_meta:
            raise SixfoldError(
                f"{name} gets its values from outside of its own layer, which running layers one at a time does not"
                " support",
                "choose variants that need no calibration",
            )
