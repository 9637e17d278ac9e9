"""What precedes a GGUF file's tensors, as gguf-py writes it: general keys, numbers, tokenizer, tensor list."""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import (
    GGML_QUANT_VERSION,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
    Metadata,
    size_label,
)
from gguf.gguf_writer import TensorInfo, WriterState

from exporters.ggml.architectures.rotary import Config
from exporters.ggml.header.hyperparameters import ENTRIES, write_hyperparameters
from exporters.ggml.header.tokenizer import FILE as TOKENIZER
from exporters.ggml.header.tokenizer import write_tokenizer
from sixfold.boundary.json_text import read_json_file
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError

ALIGNMENT = GGUF_DEFAULT_ALIGNMENT
_GENERATION = "generation_config.json"
_SAMPLING = {
    "top_k": "sampling_top_k",
    "top_p": "sampling_top_p",
    "min_p": "sampling_min_p",
    "temperature": "sampling_temp",
    "repetition_penalty": "sampling_penalty_repeat",
}
"""What generation_config.json calls it -> gguf-py's Metadata."""


PROVENANCE = ("license", "license_name", "license_link", "base_model", "authors")
"""Fields of the provenance that a file states."""
_CARD = {"authors": "model_author"}
"""What gguf-py's reading of a model card calls them, where that differs."""


@dataclass(frozen=True)
class Importance:
    """The importance matrix that weights were quantized with, as llama-quantize records it.

    file: its name. dataset: what it was measured on. entries: tensors in it. chunks: token windows.
    """

    file: str
    dataset: str
    entries: int
    chunks: int


@dataclass(frozen=True)
class Written:
    """A tensor as a file's header states it; shape slowest dimension first."""

    name: str
    shape: tuple[int, ...]
    qtype: GGMLQuantizationType
    nbytes: int


def headers(
    checkpoint: Checkpoint,
    config: Config,
    arch: str,
    files: Sequence[Sequence[Written]],
    *,
    preset: str | None,
    tokenizer_pre: str | None,
    importance: Importance | None,
) -> list[bytes]:
    """The bytes before the data of each file, padded to ALIGNMENT. config: as from
    `sixfold.model.meta_model.completed`. preset: None where the types are no preset's; llama.cpp then names the file
    by the type of most tensors.

    The keys are in the first file; the others of a split model have the split's own keys alone.
    """
    writer = GGUFWriter(None, arch)
    writer.tensors = [
        {tensor.name: TensorInfo(tensor.shape, tensor.qtype, tensor.nbytes) for tensor in tensors} for tensors in files
    ]
    writer.add_type(GGUFType.MODEL)
    general_metadata(writer, checkpoint, "text-generation").set_gguf_meta_model(writer)
    write_hyperparameters(writer, arch, config)
    if preset is not None:
        held = {tensor.qtype for tensors in files for tensor in tensors}
        kept = GGMLQuantizationType.MXFP4 in held and preset in ("F32", "F16", "BF16")
        writer.add_file_type(LlamaFileType.MOSTLY_MXFP4_MOE if kept else file_type(preset))
    writer.add_quantization_version(GGML_QUANT_VERSION)
    vocab = next(t.shape[0] for tensors in files for t in tensors if t.name == "token_embd.weight")
    if has_tokenizer(checkpoint):
        begins = ENTRIES[arch].begins(config)
        write_tokenizer(writer, checkpoint.folder, arch, vocab, tokenizer_pre, begins=begins)
    suppressed = _generation(checkpoint).get("suppress_tokens")
    if isinstance(suppressed, list) and suppressed and all(type(token) is int for token in suppressed):
        writer.add_array("tokenizer.ggml.suppress_tokens", suppressed)  # gguf-py 0.19 does not have it
    if importance is not None:
        writer.add_string("quantize.imatrix.file", importance.file)
        if importance.dataset:
            writer.add_string("quantize.imatrix.dataset", importance.dataset)
        writer.add_uint32("quantize.imatrix.entries_count", importance.entries)
        if importance.chunks:
            writer.add_uint32("quantize.imatrix.chunks_count", importance.chunks)
    return serialized(writer)


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether files state a vocabulary: all but those planned from a config.json alone, which knows of none."""
    return not checkpoint.bare or TOKENIZER in checkpoint.extras


def file_type(preset: str) -> LlamaFileType:
    return LlamaFileType.ALL_F32 if preset == "F32" else LlamaFileType[f"MOSTLY_{preset}"]


def padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def serialized(writer: GGUFWriter) -> list[bytes]:
    """Raises SixfoldError where a key's number has no place in its type."""
    buffers = [io.BytesIO() for _ in writer.tensors]
    writer.fout = buffers  # type: ignore[assignment]  # typed as files; the writer calls write and flush alone
    writer.state = WriterState.EMPTY
    writer.write_header_to_file()
    try:
        writer.write_kv_data_to_file()
    except struct.error as error:
        raise SixfoldError(
            f"a GGUF file has no place for {_misfit(writer)}, which follows from config.json ({error})",
            "check config.json, or leave the gguf recipes out for this model",
        ) from error
    writer.write_ti_data_to_file()
    texts = [buffer.getvalue() for buffer in buffers]
    return [text.ljust(padded(len(text)), b"\0") for text in texts]


def _misfit(writer: GGUFWriter) -> str:
    """The first key whose value cannot be packed, with it."""
    for key, held in (item for keys in writer.kv_data for item in keys.items()):
        try:
            writer._pack_val(held.value, held.type, add_vtype=True, sub_type=held.sub_type)
        except struct.error:
            return f"{key} = {held.value}"
    return "a key"


def general_metadata(writer: GGUFWriter, checkpoint: Checkpoint, task: str) -> Metadata:
    """general.*: names and sizes by gguf-py's own reading of the model's name, the past from the provenance."""
    total, shared, expert, experts = writer.get_total_parameter_count()
    past = {_CARD.get(field, field): getattr(checkpoint.provenance, field) for field in PROVENANCE}
    card = {**past, "tags": [task]}
    stated = {key: value for key, value in card.items() if value}
    metadata = Metadata.apply_metadata_heuristic(Metadata(), stated, None, Path(checkpoint.name), total)
    metadata.name = metadata.name or checkpoint.name
    metadata.size_label = metadata.size_label or size_label(total, shared, expert, experts)
    generation = _generation(checkpoint)
    for key, attribute in _SAMPLING.items():
        if generation.get(key) is not None:
            setattr(metadata, attribute, generation[key])
    return metadata


def _generation(checkpoint: Checkpoint) -> Mapping[str, Any]:
    return _json(checkpoint.folder / _GENERATION) if _GENERATION in checkpoint.extras else {}


def _json(path: Path) -> Mapping[str, Any]:
    parsed = read_json_file(path)
    if not isinstance(parsed, dict):
        raise SixfoldError(f"{path} is not a JSON object", "copy it from the base model")
    return parsed
