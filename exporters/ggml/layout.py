"""Where every byte of the model's GGUF files goes, and in which pieces it is made."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod

from exporters.ggml.header.metadata import Written, padded
from exporters.ggml.kernels import row_bytes
from exporters.ggml.tensors import Tensor
from exporters.ggml.type_mix import Choice
from sixfold.artifact.plan import OutputRange, PlannedFile, PlannedTensor, Unit
from sixfold.checkpoint.checkpoint import SourceTensor
from sixfold.checkpoint.tensor_slice import TensorSlice

UNIT_BYTES = 32 * 1024 * 1024
"""About how much of a source tensor is read and encoded at a time."""


def split(tensors: Mapping[str, Tensor], choices: Mapping[str, Choice], split_bytes: int) -> list[list[Written]]:
    """The tensors of each file, in the order of `choices`; a file has at most `split_bytes` of data where it can."""
    groups: list[list[Written]] = [[]]
    size = 0
    for name, choice in choices.items():
        shape = tensors[name].shape
        nbytes = prod(shape[:-1]) * row_bytes(choice.qtype, shape[-1])
        if groups[-1] and size + padded(nbytes) > split_bytes:
            groups.append([])
            size = 0
        groups[-1].append(Written(name, shape, choice.qtype, nbytes))
        size += padded(nbytes)
    return groups


def file_names(stem: str, count: int) -> list[str]:
    """As gguf-split names the parts of a model, counted from 1."""
    if count == 1:
        return [f"{stem}.gguf"]
    return [f"{stem}-{part:05d}-of-{count:05d}.gguf" for part in range(1, count + 1)]


def place(
    names: Sequence[str], headers: Sequence[bytes], groups: Sequence[Sequence[Written]], tensors: Mapping[str, Tensor]
) -> tuple[list[PlannedFile], list[PlannedTensor]]:
    files: list[PlannedFile] = []
    planned: list[PlannedTensor] = []
    for file, header, group in zip(names, headers, groups, strict=True):
        position = len(header)
        for out in group:
            tensor = tensors[out.name]
            encoding = f"{out.qtype.name} {tensor.transform}".rstrip()
            planned.append(
                PlannedTensor(out.name, out.qtype.name, out.shape, out.nbytes, file, position, encoding, tensor.inputs)
            )
            position += padded(out.nbytes)
        files.append(PlannedFile(file, header, position))
    return files, planned


def units(
    planned: Sequence[PlannedTensor],
    tensors: Mapping[str, Tensor],
    sources: Mapping[str, SourceTensor],
    weighted: Collection[str],
) -> Iterator[Unit]:
    """One per expert, or per block of rows where that is more than UNIT_BYTES, in the order of the files' bytes.

    weighted: tensors that are encoded with an importance matrix, which units get by their layer.
    """
    for out in planned:
        tensor = tensors[out.name]
        layer = int(out.name.split(".")[1]) if out.name in weighted else None
        if not tensor.inputs:
            yield Unit(out.encoding, (), (OutputRange(out.name, 0, out.nbytes),), layer)
        padding = tensor.shape[0] - sources[tensor.inputs[0]].shape[0] if tensor.transform == "pad" else 0
        whole = out.nbytes * (tensor.shape[0] - padding) // tensor.shape[0]
        share = whole // max(1, len(tensor.inputs))
        for index, name in enumerate(tensor.inputs):
            source = sources[name]
            every = source.shape[0] if source.shape else 1
            begin, end = tensor.part or (0, every)
            rows = end - begin
            step = max(1, UNIT_BYTES * every // source.nbytes // tensor.row_unit) * tensor.row_unit
            for start in range(begin, end, step):
                stop = min(start + step, end)
                first, last = share * (start - begin) // rows, share * (stop - begin) // rows
                place = OutputRange(out.name, index * share + first, last - first)
                yield Unit(out.encoding, (TensorSlice(name, start, stop),), (place,), layer)
        if padding:
            zeros = out.encoding.replace("pad", f"zeros:{padding}:{tensor.shape[-1]}")
            yield Unit(zeros, (), (OutputRange(out.name, whole, out.nbytes - whole),), layer)
