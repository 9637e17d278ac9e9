"""Names, sizes and the config of compressed-tensors' float formats, as llmcompressor 0.14 writes them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporters.formats.module_names import unquantized_modules
from sixfold.artifact.safetensors_layout import config_text
from sixfold.model.architecture import Architecture
from sixfold.model.source import Source

VERSION = "0.19.0"
"""The release of compressed-tensors whose layout this is."""

WEIGHT = "weight"
WEIGHT_PACKED = "weight_packed"
WEIGHT_SCALE = "weight_scale"
WEIGHT_GLOBAL_SCALE = "weight_global_scale"
INPUT_GLOBAL_SCALE = "input_global_scale"
NVFP4_TENSORS = (WEIGHT_PACKED, WEIGHT_SCALE, WEIGHT_GLOBAL_SCALE, INPUT_GLOBAL_SCALE)
GLOBAL_SHAPE: tuple[int, ...] = (1,)
CACHE_SCALES = ("k_scale", "v_scale")
"""Of keys and values, under the attention module."""


@dataclass(frozen=True)
class Scheme:
    """format: compressed-tensors' name of the layout. weights, inputs: its QuantizationArgs; no inputs in W4A16."""

    format: str
    weights: dict[str, Any]
    inputs: dict[str, Any] | None


def arguments(num_bits: int, strategy: str, **others: Any) -> dict[str, Any]:
    """QuantizationArgs with every field, since llmcompressor writes them all."""
    return {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None,
        "num_bits": num_bits,
        "observer": None,
        "observer_kwargs": {},
        "scale_dtype": None,
        "strategy": strategy,
        "symmetric": True,
        "type": "float",
        "zp_dtype": None,
        **others,
    }


_NVFP4 = arguments(4, "tensor_group", group_size=16, scale_dtype="torch.float8_e4m3fn")

SCHEMES = {
    "FP8_DYNAMIC": Scheme("float-quantized", arguments(8, "channel"), arguments(8, "token", dynamic=True)),
    "FP8_BLOCK": Scheme(
        "float-quantized",
        arguments(8, "block", block_structure=[128, 128]),
        arguments(8, "group", dynamic=True, group_size=128),
    ),
    "MXFP4A16": Scheme(
        "mxfp4-pack-quantized",
        arguments(4, "group", group_size=32, scale_dtype="torch.uint8"),
        None,
    ),
    "NVFP4A16": Scheme("nvfp4-pack-quantized", _NVFP4, None),
    "NVFP4": Scheme(
        "nvfp4-pack-quantized",
        {**_NVFP4, "observer": "memoryless_minmax"},
        {**_NVFP4, "dynamic": "local", "observer": "static_minmax"},
    ),
}
"""Presets that the exporters here make."""


def texts(source: Source, scheme: str, quantized: frozenset[str], *, fp8_cache: bool = False) -> dict[str, bytes]:
    """config.json. fp8_cache: whether scales of caches are stored."""
    ignore = ignore_list(source.architecture, quantized)
    return {"config.json": config_text(source, quantization_config(scheme, ignore, fp8_cache=fp8_cache))}


def quantization_config(scheme: str, ignore: Sequence[str], *, fp8_cache: bool = False) -> dict[str, Any]:
    """`quantization_config` of config.json for one of SCHEMES."""
    return config_of(scheme, SCHEMES[scheme], ignore, fp8_cache=fp8_cache)


def config_of(name: str, preset: Scheme, ignore: Sequence[str], *, fp8_cache: bool = False) -> dict[str, Any]:
    """`quantization_config` with one group, `name`, for every Linear that `ignore` does not match."""
    return {
        "config_groups": {
            name: {
                "format": preset.format,
                "input_activations": preset.inputs,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": preset.weights,
            }
        },
        "format": preset.format,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": arguments(8, "tensor") if fp8_cache else None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "transform_config": {},
        "version": VERSION,
    }


def mixed_texts(
    source: Source, presets: Mapping[str, Scheme], chosen: Mapping[str, str], *, fp8_cache: bool = False
) -> dict[str, bytes]:
    """config.json of Linears that have different schemes. presets: by name. chosen: of each quantized Linear the name
    of its preset.

    Every group names its modules: vLLM looks for a class of modules before it looks into fused ones, so that a group
    for `Linear` would take attention from the others.
    """
    groups = {}
    for name in dict.fromkeys(chosen.values()):
        members = [linear for linear in source.architecture.linears if chosen.get(linear.name) == name]
        (group,) = config_of(name, presets[name], ())["config_groups"].values()
        groups[name] = {**group, "targets": _entries(unquantized_modules(members, frozenset(), ()))}
    first = presets[next(iter(groups), next(iter(presets)))]
    config = config_of("", first, ignore_list(source.architecture, frozenset(chosen)), fp8_cache=fp8_cache)
    layout = {"config_groups": groups, "format": "mixed-precision" if len(groups) > 1 else first.format}
    return {"config.json": config_text(source, {**config, **layout})}


def ignore_list(architecture: Architecture, quantized: frozenset[str]) -> list[str]:
    """Entries that match every module in BF16, under each name that transformers and vLLM know it by, and no other.

    Entries are full names, which are compared whole, or `re:` and an expression that must match at the beginning: for
    all experts of a layer, and for layers that transformers does not run (multi-token prediction).
    """
    entries = _entries(unquantized_modules(architecture.linears, quantized, architecture.not_run))
    return entries if "lm_head" in entries or not architecture.tied_embeddings else [*entries, "lm_head"]


def _entries(names: Sequence[str]) -> list[str]:
    return [rf"re:{re.escape(n.rstrip('.'))}(\.|$)" if n.endswith((".", ".experts")) else n for n in names]
