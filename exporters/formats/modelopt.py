"""Names and configs of NVIDIA ModelOpt's checkpoint layout, as TensorRT-LLM, vLLM and SGLang read it.

The numbers are those of the compressed-tensors layout; names and some meanings differ:

    compressed-tensors       ModelOpt
    weight_packed            weight
    weight_global_scale      weight_scale_2 = 1 / weight_global_scale   (a scalar)
    input_global_scale       input_scale    = 1 / input_global_scale    (a scalar)
    weight_scale [out, 1]    weight_scale [out], float32

What the readers can do with FP8 differs by model. For the experts of an MoE model, TensorRT-LLM and vLLM know only
`FP8`: one float32 scale per weight and one per input, both fixed beforehand. Per-channel weights with per-token inputs
(`FP8_PER_CHANNEL_PER_TOKEN`) are read for dense models alone, and in no mix.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exporters.formats.module_names import module_names, unquantized_modules
from sixfold import __version__
from sixfold.artifact.safetensors_layout import config_text
from sixfold.model.architecture import Architecture
from sixfold.model.source import Source

QUANT_CONFIG_FILE = "hf_quant_config.json"
QUANT_METHOD = "modelopt"
_PRODUCER = {"name": "sixfold", "version": __version__}

WEIGHT = "weight"
WEIGHT_SCALE = "weight_scale"
WEIGHT_SCALE_2 = "weight_scale_2"
INPUT_SCALE = "input_scale"
NVFP4_TENSORS = (WEIGHT, WEIGHT_SCALE, WEIGHT_SCALE_2, INPUT_SCALE)
GLOBAL_SHAPE: tuple[int, ...] = ()
CACHE_SCALES = ("k_proj.k_scale", "v_proj.v_scale")
"""Of keys and values, under the attention module."""
_FP8_CACHE = {"dynamic": False, "num_bits": 8, "type": "float"}

MIXED = "MIXED_PRECISION"
"""`quant_algo` where `quantized_layers` says it of every module."""
QUANT_ALGOS = {
    "FP8": "FP8",
    "FP8_DYNAMIC": "FP8_PER_CHANNEL_PER_TOKEN",
    "NVFP4": "NVFP4",
    "NVFP4A16": "W4A16_NVFP4",
}
"""compressed-tensors' preset -> ModelOpt's `quant_algo`."""

_GROUPS: dict[str, dict[str, Any]] = {
    "FP8": {
        "input_activations": {"dynamic": False, "num_bits": 8, "type": "float"},
        "weights": {"dynamic": False, "num_bits": 8, "type": "float"},
    },
    "FP8_DYNAMIC": {
        "input_activations": {"dynamic": True, "num_bits": 8, "type": "float"},
        "weights": {"dynamic": False, "num_bits": 8, "type": "float", "strategy": "channel"},
    },
    "NVFP4": {
        "input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
        "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
    },
    "NVFP4A16": {"weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}},
}


def texts(source: Source, scheme: str, quantized: frozenset[str], *, fp8_cache: bool = False) -> dict[str, bytes]:
    """config.json and hf_quant_config.json: some readers look only at the one, some only at the other."""
    excluded = exclude_modules(source.architecture, quantized)
    inline, beside = quantization_config(scheme, excluded), hf_quant_config(scheme, excluded)
    return _written(source, inline, beside, fp8_cache=fp8_cache)


def _written(source: Source, inline: dict[str, Any], beside: dict[str, Any], *, fp8_cache: bool) -> dict[str, bytes]:
    if fp8_cache:
        inline = {**inline, "kv_cache_scheme": _FP8_CACHE}
        beside = {**beside, "quantization": {**beside["quantization"], "kv_cache_quant_algo": "FP8"}}
    return {
        "config.json": config_text(source, inline),
        QUANT_CONFIG_FILE: (json.dumps(beside, indent=2) + "\n").encode(),
    }


def mixed_texts(source: Source, chosen: Mapping[str, str], *, fp8_cache: bool = False) -> dict[str, bytes]:
    """The same of Linears that have different schemes. chosen: of each quantized Linear the name of its preset.

    As NVIDIA's releases state it (Qwen3.6-35B-A3B-NVFP4): `quantized_layers` has an entry for every module, one for all
    experts of a layer, here under each name that engines know it by; what has none stays as it is.
    """
    if len(schemes := set(chosen.values())) == 1:
        return texts(source, schemes.pop(), frozenset(chosen), fp8_cache=fp8_cache)
    excluded = exclude_modules(source.architecture, frozenset(chosen))
    schemes_of = {
        name: chosen[linear.name]
        for linear in source.architecture.linears
        if linear.name in chosen
        for name in module_names(linear)
    }
    layers = {"quantized_layers": {name: _algorithm(scheme) for name, scheme in schemes_of.items()}}
    groups = {
        f"group_{n}": {**_GROUPS[scheme], "targets": [name for name, held in schemes_of.items() if held == scheme]}
        for n, scheme in enumerate(dict.fromkeys(schemes_of.values()))
    }
    beside = {"quant_algo": MIXED, "kv_cache_quant_algo": None, **layers, "exclude_modules": excluded}
    inline = {"config_groups": groups, **layers, "ignore": excluded, "quant_algo": MIXED}
    inline |= {"producer": _PRODUCER, "quant_method": QUANT_METHOD}
    return _written(source, inline, {"producer": _PRODUCER, "quantization": beside}, fp8_cache=fp8_cache)


def _algorithm(scheme: str) -> dict[str, Any]:
    """Of one module: `quant_algo`, and the size of groups where it has any."""
    group_size = _GROUPS[scheme]["weights"].get("group_size")
    return {"quant_algo": QUANT_ALGOS[scheme], **({} if group_size is None else {"group_size": group_size})}


def exclude_modules(architecture: Architecture, quantized: frozenset[str]) -> list[str]:
    """Every module in BF16, under each name that engines know it by; readers match `*` as a shell does.

    vLLM also takes each entry as a substring, so a name ends where the module's does, and a layer's at its dot.
    """
    names = unquantized_modules(architecture.linears, quantized, architecture.not_run)
    entries = [n + "*" if n.endswith((".", ".experts")) else n for n in names]
    return entries if "lm_head" in entries or not architecture.tied_embeddings else [*entries, "lm_head"]


def hf_quant_config(scheme: str, excluded: Sequence[str]) -> dict[str, Any]:
    """hf_quant_config.json."""
    return {
        "producer": _PRODUCER,
        "quantization": {**_algorithm(scheme), "kv_cache_quant_algo": None, "exclude_modules": list(excluded)},
    }


def quantization_config(scheme: str, excluded: Sequence[str]) -> dict[str, Any]:
    """The same in `quantization_config` of config.json."""
    return {
        "config_groups": {"group_0": {**_GROUPS[scheme], "targets": ["Linear"]}},
        "ignore": list(excluded),
        "quant_algo": QUANT_ALGOS[scheme],
        "producer": _PRODUCER,
        "quant_method": QUANT_METHOD,
    }
