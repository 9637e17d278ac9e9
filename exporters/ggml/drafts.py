"""Types of multi-token prediction (MTP) layers in a GGUF file, which no preset chooses."""

from collections.abc import Iterator, Mapping

from gguf import GGMLQuantizationType

from exporters.ggml.kernels import PLAIN, block_size
from exporters.ggml.tensors import Tensor
from sixfold.model.gguf_drafts import block_of

_TYPE = GGMLQuantizationType.Q8_0
_PLAIN_PRESETS = tuple(qtype.name for qtype in PLAIN)


def draft_types(tensors: Mapping[str, Tensor], layers: int, scheme: str) -> dict[str, GGMLQuantizationType]:
    """By name, of blocks behind `layers`: Q8_0, and F16 where rows are not whole blocks of it; {} for plain presets.

    transformers does not run these layers, so that nothing is known of what they read; they are a percent or two of a
    model, and a wrong draft costs speed.
    """
    if scheme in _PLAIN_PRESETS:
        return {}
    return {
        name: GGMLQuantizationType.F16 if tensor.shape[-1] % block_size(_TYPE) else _TYPE
        for name, tensor in tensors.items()
        if block_of(name) >= layers
    }


def draft_notes(tensors: Mapping[str, Tensor], layers: int, declared: int, scheme: str) -> Iterator[str]:
    """declared: MTP layers by config.json."""
    held = len({block_of(name) for name in tensors if block_of(name) >= layers})
    if held:
        kind = scheme if scheme in _PLAIN_PRESETS else _TYPE.name
        yield f"MTP layers behind the decoder's, which llama.cpp drafts with if asked: {held}, matrices in {kind}"
    elif declared:
        yield f"config.json declares MTP layers ({declared}), and the file holds none"
