"""Whether a healed folder is the pruned checkpoint but for what was refitted, and how far that was moved."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pruning.anatomy import Anatomy
from pruning.healing.healed_weights import is_refitted
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress


@dataclass(frozen=True)
class LayerChange:
    """Relative change |W' - W| / |W| of the refitted tensors of one layer: mean and largest."""

    layer: int
    tensors: int
    mean: float
    largest: float


def check_refitted(healed: Source, plain: Source, anatomy: Anatomy, progress: Progress) -> tuple[LayerChange, ...]:
    """plain: the pruned checkpoint without healing. anatomy: of the healed one.

    Raises SixfoldError where a tensor differs that healing does not change, or one that it does is not finite.
    """
    changes: dict[int, list[float]] = defaultdict(list)
    tensors = healed.checkpoint.as_stored.tensors
    with progress("comparing", sum(tensor.nbytes for tensor in tensors.values()), "B") as advance:
        for name, tensor in tensors.items():
            after, before = (_read(source, name) for source in (healed, plain))
            found = anatomy.tensors.get(name)
            if found is not None and is_refitted(found):
                changes[found.layer] += _moved(before, after, one_by_one=found.expert is None)
            elif not torch.equal(after, before):
                raise _wrong(f"{name} differs from the original's")
            if not after.isfinite().all():
                raise _wrong(f"{name} has values that are no numbers")
            advance(tensor.nbytes)
    return tuple(
        LayerChange(layer, len(moved), sum(moved) / len(moved), max(moved)) for layer, moved in sorted(changes.items())
    )


def _read(source: Source, name: str) -> torch.Tensor:
    checkpoint = source.checkpoint.as_stored
    shape = checkpoint.tensors[name].shape
    return checkpoint.read(TensorSlice(name, 0, shape[0] if shape else 1))


def _moved(before: torch.Tensor, after: torch.Tensor, *, one_by_one: bool) -> list[float]:
    """one_by_one: whether the tensor holds the matrices of all experts, along its first dimension."""
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]] = (
        list(zip(before, after, strict=True)) if one_by_one else [(before, after)]
    )
    tiny = torch.finfo(torch.float32).tiny
    return [float((new.float() - old.float()).norm() / old.float().norm().clamp(min=tiny)) for old, new in pairs]


def _wrong(what: str) -> SixfoldError:
    return SixfoldError(what, "this is a defect of the healing: report it with plan.json, and prune without --heal")
