"""Where the tensors of an ordinary architecture lie, of which no table here tells: by the libraries that define it.

gguf-py says what llama.cpp calls each tensor of the source; transformers, run for a moment, which norms add one to
their weights and how a head turns; llama.cpp, how its own heads turn. Of the file nothing is asked but its
architecture, so that tensors that changed places in it are in the wrong one; and of an exporter nothing at all.
"""

import re
import sys
from collections.abc import Callable, Mapping, Set
from functools import cache
from typing import Any

import torch

from verification.reading.gguf.place import Place
from verification.reading.gguf.tables import TABLES

_OTHERWISE = ("bert", "bitnet")
"""An encoder, and an architecture whose weights llama.cpp's converter changes in a way of its own."""

_TURNS_NEIGHBORS = frozenset(
    (
        "arcee arctic baichuan bailingmoe bailingmoe3 chameleon chatglm cohere2 cohere2moe command-r deci deepseek"
        " deepseek2 deepseek2-ocr deepseek32 dots3note eagle3 ernie4_5 ernie4_5-moe glm-dsa glm4 granite granite_swa"
        " granitehybrid granitemoe graniteswitch hy_v4 internlm2 llada llama llama-embed llama4 maincoder minicpm"
        " mistral3 mistral4 muse-glimmer nanbeige neo-bert olmo plm pockettts smollm3 starcoder xverse"
    ).split()
)
"""All architectures whose heads llama.cpp turns by neighboring channels: LLAMA_ROPE_TYPE_NORM in
`llama_model_rope_type` (src/llama-model.cpp), whether transformers knows them or not."""

_EXPERT = re.compile(r"\.experts\.\d+\.")
_BLOCK = re.compile(r"^blk\.\d+\.")


@cache
def same_named() -> Mapping[str, str]:
    """transformers' model type of a causal language model -> the architecture that gguf-py has under the same name, but
    for punctuation, where no more is done to its weights than is known here."""
    import gguf
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    decoders = {
        _bare(name): name
        for number, name in gguf.MODEL_ARCH_NAMES.items()
        if gguf.MODEL_TENSOR.OUTPUT_NORM in gguf.MODEL_TENSORS.get(number, ()) and name not in _OTHERWISE
    }
    return {kind: decoders[_bare(kind)] for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if _bare(kind) in decoders}


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def known_by_library(arch: str) -> bool:
    """Of an architecture that no table here has."""
    return arch not in TABLES and arch in same_named().values()


def is_library_name(arch: str, name: str) -> bool:
    """Whether a tensor of such a file may be called so."""
    return _BLOCK.sub("blk.{bid}.", name).removesuffix(".weight").removesuffix(".bias") in _stems(arch)


@cache
def _stems(arch: str) -> Set[str]:
    import gguf

    return {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[_number(arch)]}


def _number(arch: str) -> Any:
    """gguf-py's member of its enumeration."""
    import gguf

    return next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)


def library_places(
    arch: str, kind: str, layers: int, on_disk: Mapping[str, str], one_plus: Set[str]
) -> dict[str, Place]:
    """By GGUF name, of all that the source has. kind: its model type. on_disk: what a text model of its kind calls a
    tensor -> what the source does. one_plus: names on disk of norms to which the model adds one."""
    import gguf

    names = gguf.get_tensor_name_map(_number(arch), layers)
    paired = arch in _TURNS_NEIGHBORS and _turns_halves(kind)
    found: dict[str, Place] = {}
    for called, name in on_disk.items():
        held = _gguf_name(names.get_name, _EXPERT.sub(".experts.", called))
        if held is None:
            continue
        expert = _EXPERT.search(called) is not None
        found[held] = Place(
            _EXPERT.sub(".experts.{}.", name) if expert else name,
            expert,
            rope=paired and held.split(".")[-2] in ("attn_q", "attn_k"),
            change="plus one" if name in one_plus else "",
        )
    return found


def _gguf_name(of_library: Callable[..., str | None], called: str) -> str | None:
    """Correction biases of routers, and parameters of modules' own, are no `.weight` or `.bias` on disk."""
    tried = (called, re.sub(r"_bias$", ".bias", called), f"{called}.weight")
    return next((held for one in tried if (held := of_library(one, try_suffixes=(".weight", ".bias")))), None)


def _turns_halves(kind: str) -> bool:
    """Whether transformers turns each channel of a head with that half a head away, asked of its own function."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    called = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    module = sys.modules[getattr(transformers, called).__module__] if called else None
    turn = getattr(module, "rotate_half", None)
    return turn is not None and bool(turn(torch.arange(4.0)).tolist() == [-2.0, -3.0, 0.0, 1.0])
