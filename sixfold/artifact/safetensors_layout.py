"""From what an exporter wants to write to where every byte goes: shards, headers, index, config and carried files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sixfold.artifact.plan import ExportPlan, OutputRange, PlannedFile, PlannedTensor, Unit
from sixfold.checkpoint.checkpoint import SourceTensor
from sixfold.checkpoint.storage.safetensors_header import DTYPE_BITS, tensor_nbytes, write_header
from sixfold.checkpoint.storage.weight_files import INDEX, SINGLE
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source

SHARD = "model-{:05d}-of-{:05d}.safetensors"
SHARD_BYTES = 5_000_000_000

COPY = "copy"
CAST = "cast"


@dataclass(frozen=True)
class DraftTensor:
    """A tensor to be written: on-disk name, safetensors dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Draft:
    """A unit before its outputs have a place. Drafts keep the order of the source, so that reading stays sequential."""

    encoding: str
    inputs: tuple[TensorSlice, ...]
    outputs: tuple[DraftTensor, ...]
    layer: int | None = None


def whole(tensor: SourceTensor) -> TensorSlice:
    """All rows of a tensor; a scalar counts as one row."""
    return TensorSlice(tensor.name, 0, tensor.shape[0] if tensor.shape else 1)


def kept_draft(source: Source, tensor: SourceTensor) -> Draft:
    """A tensor that is not quantized: byte for byte, or cast to BF16 where the source as a whole is FP16 or FP32.

    A single F32 tensor in a BF16 checkpoint (a correction bias) is F32 on purpose and stays so. The stream makes both
    encodings itself; an exporter's `encode` never sees them.
    """
    dtype = tensor.dtype
    if dtype == "F16" or (dtype == "F32" and source.checkpoint.main_dtype == "F32"):
        if tensor.name not in source.architecture.correction_biases:
            dtype = "BF16"
    encoding = COPY if dtype == tensor.dtype else CAST
    return Draft(encoding, (whole(tensor),), (DraftTensor(tensor.name, dtype, tensor.shape),))


def place(
    drafts: Sequence[Draft],
    *,
    variant: str,
    folder: str,
    texts: Mapping[str, bytes],
    notes: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
) -> ExportPlan:
    """Split drafts into shards in their order and give every tensor its file and absolute offset."""
    groups = _split(drafts, shard_bytes)
    names = [SINGLE] if len(groups) == 1 else [SHARD.format(i + 1, len(groups)) for i in range(len(groups))]
    tensors: list[PlannedTensor] = []
    units: list[Unit] = []
    files: list[PlannedFile] = []
    for name, group in zip(names, groups, strict=True):
        header, offsets, nbytes = _header(group)
        files.append(PlannedFile(name, header, nbytes))
        for draft in group:
            inputs = tuple(dict.fromkeys(part.name for part in draft.inputs))
            for out in draft.outputs:
                tensors.append(
                    PlannedTensor(
                        out.name, out.dtype, out.shape, out.nbytes, name, offsets[out.name], draft.encoding, inputs
                    )
                )
            ranges = tuple(OutputRange(out.name, 0, out.nbytes) for out in draft.outputs)
            units.append(Unit(draft.encoding, draft.inputs, ranges, draft.layer))
    texts = dict(texts)
    if len(groups) > 1:
        texts[INDEX] = index_text({t.name: t.file for t in tensors}, sum(t.nbytes for t in tensors))
    return ExportPlan(variant, folder, tuple(tensors), tuple(units), tuple(files), texts, tuple(notes))


def _split(drafts: Iterable[Draft], shard_bytes: int) -> list[list[Draft]]:
    groups: list[list[Draft]] = [[]]
    size = 0
    for draft in drafts:
        nbytes = sum(out.nbytes for out in draft.outputs)
        if groups[-1] and size + nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(draft)
        size += nbytes
    return groups


def _header(group: Sequence[Draft]) -> tuple[bytes, dict[str, int], int]:
    """Header bytes of one shard, absolute offsets by tensor name, size of the whole file."""
    outputs = _aligned([out for draft in group for out in draft.outputs])
    header = write_header([(out.name, out.dtype, out.shape) for out in outputs], {"format": "pt"})
    position = len(header)
    offsets: dict[str, int] = {}
    for out in outputs:
        offsets[out.name] = position
        position += out.nbytes
    return header, offsets, position


def _aligned(outputs: list[DraftTensor]) -> list[DraftTensor]:
    """The given order where every tensor then starts on a multiple of its element size, else widest elements first.

    Readers view mapped bytes in place, so alignment is needed, and the format allows no padding between tensors.
    """
    position = 0
    for out in outputs:
        if 8 * position % DTYPE_BITS[out.dtype]:
            return sorted(outputs, key=lambda out: -DTYPE_BITS[out.dtype])
        position += out.nbytes
    return outputs


def index_text(files: Mapping[str, str], total_bytes: int) -> bytes:
    """model.safetensors.index.json; total_size counts tensor data alone, as transformers writes it."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(files.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


def config_text(source: Source, quantization_config: Mapping[str, Any] | None) -> bytes:
    """The source's config.json, every field kept (engines need some that transformers drops), with what changed, and
    with those that transformers dropped already.

    The source's own quantization is gone from the weights, so it is removed here; a dtype field becomes bfloat16
    where the weights became BF16.
    """
    dropped = ("quantization_config", "compression_config")
    config = {k: v for k, v in source.checkpoint.config.items() if k not in dropped}
    config = {**_dropped_on_saving(config), **config}
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = "bfloat16"
    if quantization_config is not None:
        config["quantization_config"] = dict(quantization_config)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _dropped_on_saving(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of MiniMax-M2 that vLLM and llama.cpp read, and that transformers, which has one value for each, drops."""
    if config.get("model_type") != "minimax_m2":
        return {}
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    turned = (config.get("rope_parameters") or {}).get("partial_rotary_factor", 1.0)
    return {"scoring_func": "sigmoid", "use_routing_bias": True, "rotary_dim": int(head * turned)}


def carried_texts(source: Source) -> dict[str, bytes]:
    """Tokenizer, chat template, generation config, license and code of the source, byte for byte."""
    return {name: (source.checkpoint.folder / name).read_bytes() for name in source.checkpoint.extras}
