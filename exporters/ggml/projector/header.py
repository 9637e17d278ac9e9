"""What precedes the tensors of a projector's file, as llama.cpp's converter writes it."""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gguf import GGML_QUANT_VERSION, GGUFType, GGUFWriter
from gguf.gguf_writer import TensorInfo

from exporters.ggml.header.metadata import Written, file_type, general_metadata, serialized
from exporters.ggml.projector.entry import Config, Keys, Projector, Seeing
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.errors import SixfoldError

_ARCHITECTURE = "clip"
LAYERS = ("n_layers", "num_hidden_layers", "n_layer", "num_layers", "depth", "layers", "encoder_layers")
_SIZES: Sequence[tuple[str, tuple[str, ...]]] = (
    ("image_size", ("image_size",)),
    ("patch_size", ("patch_size",)),
    ("embedding_length", ("hidden_size", "width", "d_model")),
    ("feed_forward_length", ("intermediate_size", "encoder_ffn_dim")),
    ("block_count", LAYERS),
    ("head_count", ("num_attention_heads", "num_heads", "heads", "encoder_attention_heads")),
)
"""What follows `add_vision_`, and the fields of vision_config that it is taken from."""

_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What comes of values that are missing, or no numbers where numbers are due."""


def header(checkpoint: Checkpoint, entry: Projector, seeing: Seeing, tensors: Sequence[Written], preset: str) -> bytes:
    """The bytes before the data, padded. Raises SixfoldError where config.json or the processor's lacks a number."""
    writer = GGUFWriter(None, _ARCHITECTURE)
    writer.tensors = [{tensor.name: TensorInfo(tensor.shape, tensor.qtype, tensor.nbytes) for tensor in tensors}]
    writer.add_type(GGUFType.MMPROJ)
    general_metadata(writer, checkpoint, "image-text-to-text").set_gguf_meta_model(writer)
    writer.add_file_type(file_type(preset))
    try:
        for key, value in _values(entry, seeing):
            if key.startswith("add_"):
                getattr(writer, key)(value)
            else:
                (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        (text,) = serialized(writer)
    except (struct.error, *_NONSENSE) as error:
        raise _unsaid(error) from error
    return text


def _values(entry: Projector, seeing: Seeing) -> Iterable[tuple[str, Any]]:
    """In the order of the file; of a key that is stated twice, the later value."""
    found: dict[str, Any] = {}
    if entry.kind:
        found |= _of_eyes(entry, seeing)
    if entry.hears and seeing.ear:
        found |= _of_ears(entry, seeing)
    for kind, sense in ((entry.kind, "vision_"), (entry.hears if seeing.ear else "", "audio_")):
        if kind:
            found[f"add_clip_{sense if entry.kind and entry.hears else ''}projector_type"] = kind
    found |= _stated(entry.keys, seeing)
    return ((key, value) for key, value in found.items() if value is not None)


def _of_eyes(entry: Projector, seeing: Seeing) -> dict[str, Any]:
    width = seeing.text.get("hidden_size")
    found: dict[str, Any] = {"add_clip_has_vision_encoder": True, "add_vision_projection_dim": width}
    for name, fields in _SIZES:
        found[f"add_vision_{name}"] = _first(seeing.tower, fields, "vision_config")
    for name in ("image_mean", "image_std"):
        colors = _first(seeing.processor, (name,), "preprocessor_config.json")
        found[f"add_vision_{name}"] = [float(color) for color in colors]
    if (layers := looked_up(entry.layers, seeing)) is not None:
        found["add_vision_block_count"] = layers
    return found


def _of_ears(entry: Projector, seeing: Seeing) -> dict[str, Any]:
    stated, width = _stated(entry.audio_keys, seeing), seeing.text.get("hidden_size")
    found: dict[str, Any] = {"add_clip_has_audio_encoder": True, "add_audio_projection_dim": width}
    for name, fields in _SIZES[2:]:
        if f"add_audio_{name}" not in stated:
            found[f"add_audio_{name}"] = _first(seeing.ear, fields, "audio_config")
    return {**found, **stated}


def _first(config: Config, fields: Sequence[str], where: str) -> Any:
    value = next((config[name] for name in fields if config.get(name) is not None), None)
    if value is None:
        raise SixfoldError(
            f"{where} has no {fields[0]}, which llama.cpp needs to see",
            "take it from the original model, or set options.projector=none for the language model alone",
        )
    return value


def _stated(keys: Keys, seeing: Seeing) -> dict[str, Any]:
    return {method: looked_up(value, seeing) for method, value in keys}


def looked_up(value: Callable[[Any], Any], seeing: Any) -> Any:
    """Raises SixfoldError where the files do not say, or say what makes no sense."""
    try:
        return value(seeing)
    except _NONSENSE as error:
        raise _unsaid(error) from error


def _unsaid(error: Exception) -> SixfoldError:
    return SixfoldError(
        "config.json or preprocessor_config.json do not say, or say in another form, what llama.cpp needs to see"
        f" ({type(error).__name__}: {error})",
        "take them from the original model, or set options.projector=none for the language model alone",
    )
