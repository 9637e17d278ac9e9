"""What llama.cpp calls the tensors of a checkpoint."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from sixfold.errors import SixfoldError
from sixfold.model.gguf.architectures import STATED_TYPE, decoder_config, gguf_architecture
from sixfold.model.gguf.drafts import HELD_BY, draft_part, in_layers
from sixfold.model.gguf.own_names import AS_KEYS, GRANITE_SHARED, NAMED_AS, OWN_NAMES, RENAMED
from sixfold.model.wrappers import decoder_fields, lies_around

_DECODER = re.compile(r"(model\.)?(language|text)_model\.|model\.(layers|embed_tokens|norm)\.|lm_head\.")
"""How the tensors of a language model begin where towers for pictures and sound lie beside it."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|model\.blocks)\.(\d+)\.(.*)")
_TWO_STACKS = re.compile(r"^model\.([LH])_module\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_NEVER_STORED = (
    ".rotary_emb.inv_freq",
    *(f".{a}.{b}" for a in ("attention", "attn") for b in ("masked_bias", "bias")),
    *(f".self_attn.{name}" for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay")),
)
"""Buffers that some checkpoints carry and that llama.cpp computes itself."""


def numbers_of_layers(config: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, list[str]]:
    """Key of a GGUF file -> the tensors whose numbers it states, layer by layer."""
    keys = AS_KEYS.get(gguf_architecture(config), {})
    found: dict[str, dict[int, str]] = {}
    for name in tensor_names if keys else ():
        layer = _LAYER.search(name)
        if layer and layer[2] in keys:
            found.setdefault(keys[layer[2]], {})[int(layer[1])] = name
    return {key: [names[layer] for layer in sorted(names)] for key, names in found.items()}


def _in_one_stack(name: str, config: Mapping[str, Any]) -> str:
    """HRM-Text's stack of high-level layers behind that of low-level ones; other names as they are."""

    def numbered(found: re.Match[str]) -> str:
        before = config["num_layers_per_stack"] if found[1] == "H" else 0
        return f"model.layers.{before + int(found[2])}."

    return _TWO_STACKS.sub(numbered, name)


def gguf_tensor_names(config: Mapping[str, Any], tensor_names: Collection[str]) -> dict[str, str]:
    """On-disk tensor name -> GGUF tensor name, in the order given; all experts of a layer share one stacked name.

    Left out, as llama.cpp does not hold them: multi-token prediction layers (but for the architectures of
    sixfold.model.gguf.drafts), stored rotary frequencies, an lm_head that is tied to the embeddings, and towers beside
    the decoder.

    kv_b_proj of multi-head latent attention gets its one name `blk.N.attn_kv_b.weight`;
    see sixfold.model.gguf.arrangements.

    Raises SixfoldError for an unknown architecture and for a tensor that it has no name for.
    """
    import gguf

    architecture = gguf_architecture(config)
    sees, config = bool(decoder_fields(config)), decoder_config(config)
    name_of_arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = config["num_hidden_layers"]
    named_as = architecture if architecture in name_of_arch else NAMED_AS[architecture]
    drafting = architecture in HELD_BY
    held = [in_layers(name, layers, architecture) if drafting else _in_one_stack(name, config) for name in tensor_names]
    blocks = max([layers, *(int(layer[1]) + 1 for name in held if (layer := _LAYER.search(name)))])
    mapping, own = gguf.get_tensor_name_map(name_of_arch[named_as], blocks), OWN_NAMES.get(architecture, {})
    if own is GRANITE_SHARED and not config.get("num_local_experts"):
        own = {
            name: held.replace("_shexp", "") for name, held in own.items()
        }  # what experts would share is all there is
    tied = bool(config.get("tie_word_embeddings"))

    def found(name: str) -> str | None:
        """None for what is left out."""
        layer = _LAYER.search(name)
        drafts = layer is not None and int(layer[1]) >= layers
        if (drafts and architecture not in HELD_BY) or "mtp" in name.split("."):
            return None
        if name.endswith(_NEVER_STORED) or (tied and name.endswith("lm_head.weight")):
            return None
        if (sees and not _DECODER.match(name)) or lies_around(str(config[STATED_TYPE]), name):
            return None
        if layer and drafts and (part := draft_part(layer[2])):
            return f"blk.{layer[1]}.{part}"
        if layer and layer[2] in AS_KEYS.get(architecture, {}):
            return None
        if layer and layer[2] in own:
            return f"blk.{layer[1]}.{own[layer[2]]}"
        known = name
        for pattern, replacement in RENAMED:
            known = re.sub(pattern, replacement, known)
        if known in own:
            return own[known]
        gguf_name: str | None = mapping.get_name(known, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise SixfoldError(
                f"GGUF architecture {architecture} has no name for tensor {name}",
                "leave the gguf recipes out for this model",
            )
        return gguf_name

    names: dict[str, str] = {}
    of_any_expert: dict[str, str | None] = {}
    for name, in_layer in zip(tensor_names, held, strict=True):
        stacked = _EXPERT.sub(".experts.", in_layer, count=1)
        if stacked not in of_any_expert:
            of_any_expert[stacked] = found(stacked)
        gguf_name = of_any_expert[stacked]
        if gguf_name is not None:
            names[name] = gguf_name
    return names
