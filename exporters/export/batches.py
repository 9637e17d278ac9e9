"""Which units are rounded side by side: the same weights of several experts, few steps in place of many."""

from collections.abc import Iterator, Sequence

import torch

from sixfold.artifact.plan import Unit
from sixfold.artifact.safetensors_layout import CAST, COPY
from sixfold.checkpoint.checkpoint import Checkpoint

_HELD = 8 << 20
"""Bytes of a batch on the processor, as `_cost` counts them; on a GPU an eighth of its memory. Large weights gain
nothing by company on a processor: their steps take longer than the calls that make them."""
_WINDOW = 512 << 20
"""Bytes of output within which units are looked for that fit: files are written in order, but for so much."""


def batches(checkpoint: Checkpoint, device: torch.device, units: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """units: of one file, in its order. Every one is in one batch, with others of the same encoding and the same shapes
    and dtypes of inputs. A function of its arguments and the size of a GPU, so that a run that resumes has the same."""
    held = _HELD if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory // 8
    return [batch for window in _windows(units) for batch in _of_window(checkpoint, window, held)]


def _windows(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    window: list[Unit] = []
    nbytes = 0
    for unit in units:
        window.append(unit)
        nbytes += sum(part.nbytes for part in unit.outputs)
        if nbytes >= _WINDOW:
            yield window
            window, nbytes = [], 0
    if window:
        yield window


def _of_window(checkpoint: Checkpoint, units: Sequence[Unit], held: int) -> Iterator[tuple[Unit, ...]]:
    alike: dict[tuple[object, ...], list[Unit]] = {}
    for unit in units:
        alone = unit.encoding in (COPY, CAST) or not unit.inputs
        alike.setdefault((unit,) if alone else _kind(checkpoint, unit), []).append(unit)
    for group in alike.values():
        number = max(1, held // max(1, _cost(checkpoint, group[0])))
        yield from (tuple(group[start : start + number]) for start in range(0, len(group), number))


def _kind(checkpoint: Checkpoint, unit: Unit) -> tuple[object, ...]:
    tensors = [checkpoint.named(part.name) for part in unit.inputs]
    rows = [part.stop - part.start for part in unit.inputs]
    return (unit.encoding, *((n, tensor.shape[1:], tensor.dtype) for n, tensor in zip(rows, tensors, strict=True)))


def _cost(checkpoint: Checkpoint, unit: Unit) -> int:
    """Bytes of a unit's weights and of its input's moments and factor, in float32."""
    columns = [checkpoint.named(part.name).shape[-1:] for part in unit.inputs]
    weights = sum((part.stop - part.start) * n[0] for part, n in zip(unit.inputs, columns, strict=True) if n)
    return 4 * (weights + 2 * max((n[0] for n in columns if n), default=0) ** 2)
