"""Single experts of a tensor that holds all experts of a layer, as tensors of their own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from sixfold.checkpoint.checkpoint import Checkpoint, Contents, SourceTensor
from sixfold.checkpoint.tensor_slice import TensorSlice


@dataclass(frozen=True)
class StackLayout:
    """How the matrices of one expert lie in a stack.

    parts: matrices side by side along the output channels: 2 for gate and up, 1 for a matrix alone. interleaved:
    gate and up take turns (gpt-oss) instead of following one another. transposed: stored [in, out], not [out, in].
    """

    parts: int
    interleaved: bool
    transposed: bool

    def rows_of(self, expert: torch.Tensor, part: int) -> torch.Tensor:
        """The view [out, in] of one part of an expert's matrices; [out] of its biases, which are never transposed."""
        rows = expert.mT if self.transposed and expert.dim() == 2 else expert
        if self.interleaved:
            return rows[part :: self.parts]
        height = len(rows) // self.parts
        return rows[part * height : (part + 1) * height]

    def shape_of(self, stack: tuple[int, ...]) -> tuple[int, ...]:
        """Of one part, for a stack [experts, ...]."""
        return tuple(self.rows_of(torch.empty(stack[1:], device="meta"), 0).shape)


@dataclass(frozen=True)
class ExpertSlice:
    """One matrix (or bias) of one expert: where it lies in the tensor `stack`, whose rows are the experts."""

    stack: str
    expert: int
    part: int
    layout: StackLayout


def with_slices(checkpoint: Checkpoint, slices: Mapping[str, ExpertSlice]) -> Checkpoint:
    """The checkpoint with `slices` (by name) in place of the tensors that they are cut from."""
    by_stack: dict[str, list[str]] = {}
    for name, cut in slices.items():
        by_stack.setdefault(cut.stack, []).append(name)
    tensors: dict[str, SourceTensor] = {}
    for name, tensor in checkpoint.tensors.items():
        for own in by_stack.get(name, ()):
            shape = slices[own].layout.shape_of(tensor.shape)
            share = tensor.shape[0] * slices[own].layout.parts
            tensors[own] = replace(tensor, name=own, shape=shape, nbytes=tensor.nbytes // share)
        if name not in by_stack:
            tensors[name] = tensor
    return replace(
        checkpoint,
        tensors=tensors,
        contents=_cut(checkpoint.contents, slices),
        stored=checkpoint,
        slices=dict(slices),
    )


def reading_by(checkpoint: Checkpoint, read: Callable[[TensorSlice], torch.Tensor]) -> Checkpoint:
    """The checkpoint with `read` in place of its own reads of rows of stored tensors."""
    stored = checkpoint.as_stored
    stored = replace(stored, contents=replace(stored.contents, read=read))
    if checkpoint.stored is None:
        return stored
    return replace(checkpoint, contents=_cut(stored.contents, checkpoint.slices), stored=stored)


def _cut(plain: Contents, slices: Mapping[str, ExpertSlice]) -> Contents:
    """plain: of the checkpoint that the slices are cut from."""
    return Contents(partial(_read, plain, slices), partial(_read_into, plain, slices), plain.fingerprint, plain.files)


def _read(plain: Contents, slices: Mapping[str, ExpertSlice], part: TensorSlice) -> torch.Tensor:
    if part.name not in slices:
        return plain.read(part)
    cut = slices[part.name]
    expert = plain.read(TensorSlice(cut.stack, cut.expert, cut.expert + 1))[0]
    return cut.layout.rows_of(expert, cut.part)[part.start : part.stop].contiguous()


def _read_into(plain: Contents, slices: Mapping[str, ExpertSlice], name: str, out: torch.Tensor) -> None:
    if name in slices:
        out.copy_(_read(plain, slices, TensorSlice(name, 0, len(out))))
    else:
        plain.read_into(name, out)


def stacked(checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """tensors (of `checkpoint`, by name) with slices put together again to the tensors that they were cut from."""
    found = {name: tensor for name, tensor in tensors.items() if name not in checkpoint.slices}
    for name, tensor in tensors.items():
        cut = checkpoint.slices.get(name)
        if cut is not None:
            if cut.stack not in found:
                found[cut.stack] = tensor.new_empty(checkpoint.as_stored.tensors[cut.stack].shape)
            cut.layout.rows_of(found[cut.stack][cut.expert], cut.part).copy_(tensor)
    return found
