"""config.json of AutoAWQ's format, and its one trap: modules are excluded by substring.

vLLM and SGLang leave a module unquantized when any entry of `modules_to_not_convert` occurs anywhere in its name, and
transformers when an entry matches at its beginning or end. So `mlp.gate`, meant for a router, also hits a dense layer's
`mlp.gate_proj`, and the engine then looks for weights that are not there. Entries here are full names with the layer's
number, and `check_not_converted` proves on the plan's own names that they hit what they should and nothing else.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sixfold.architecture import Linear
from sixfold.errors import SixfoldError

QUANT_METHOD = "awq"
VERSION = "gemm"
QWEIGHT = "qweight"
QZEROS = "qzeros"
SCALES = "scales"

_EXPERTS = re.compile(r"(.*\.experts)\.\d+\..*")
_ON_DISK, _IN_ENGINES = ".block_sparse_moe.", ".mlp."

_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "w1": "gate_up_proj",
    "w3": "gate_up_proj",
    "q_a_proj": "fused_qkv_a_proj",
    "kv_a_proj_with_mqa": "fused_qkv_a_proj",
}
"""Last part of a name -> what it becomes when an engine fuses it with its siblings."""


def quantization_config(bits: int, group_size: int, not_converted: Sequence[str]) -> dict[str, Any]:
    return {
        "quant_method": QUANT_METHOD,
        "version": VERSION,
        "bits": bits,
        "group_size": group_size,
        "zero_point": True,
        "modules_to_not_convert": list(not_converted),
    }


def modules_to_not_convert(linears: Sequence[Linear], quantized: frozenset[str], not_run: Iterable[str]) -> list[str]:
    """Entries for all of a model's Linears but the `quantized` ones, and for what transformers does not run.

    quantized: names; of a layer's experts all or none, since engines convert them as one module.
    not_run: tensor names. Engines do build these modules (multi-token prediction), some a level deeper than on disk
    ("model.layers.61.mtp_block.self_attn..."): a layer of which nothing else runs is excluded by its prefix.
    """
    names: dict[str, None] = {}
    for linear in linears:
        if linear.name not in quantized:
            names.update(dict.fromkeys(_module_names(linear)))
    running = {_layer(linear.name) for linear in linears}
    for tensor in not_run:
        layer = _layer(tensor)
        if layer and layer not in running:
            names[layer] = None
        elif tensor.endswith(".weight") and "norm" not in tensor.rsplit(".", 2)[-2]:
            names.update(dict.fromkeys(_aliases(_module(tensor.removesuffix(".weight")))))
    return list(names)


def check_not_converted(entries: Sequence[str], linears: Sequence[Linear], quantized: frozenset[str]) -> None:
    """Raises SixfoldError where an entry hits a quantized Linear under any name that engines know it by, or another
    Linear is missed under one."""
    checked: set[str] = set()
    for linear in linears:
        if linear.name not in quantized:
            continue
        for name in (*_module_names(linear), *_weight_names(linear)):
            if name in checked:
                continue
            checked.add(name)
            hit = next((entry for entry in entries if _hits(entry, name)), None)
            if hit is not None:
                raise SixfoldError(
                    f"AWQ: modules_to_not_convert needs {hit!r}, which engines match as part of {name!r},"
                    f" but {linear.name} is quantized",
                    f"add {linear.name!r} to the recipe's `keep`",
                )
    for linear in linears:
        if linear.name in quantized:
            continue
        for name in _module_names(linear):
            if not any(_hits(entry, name) for entry in entries):
                raise SixfoldError(
                    f"AWQ: {linear.name} is not quantized, but engines would convert it as {name!r}",
                    "this is a defect of the exporter: report it with the recipe",
                )


def _hits(entry: str, name: str) -> bool:
    """vLLM and SGLang: substring. transformers: a regular expression at the beginning, or the end of the name."""
    return entry in name or re.match(entry, name) is not None


def _module(name: str) -> str:
    """The module that engines decide about: all experts of a layer are one."""
    found = _EXPERTS.fullmatch(name)
    return found.group(1) if found else name


def _layer(name: str) -> str:
    """The prefix of a decoder layer with its closing dot, "" outside of them."""
    found = re.match(r"(?:.*\.)?layers\.\d+\.", name)
    return found.group(0) if found else ""


def _module_names(linear: Linear) -> list[str]:
    return sorted({alias for name in (linear.name, linear.module) for alias in _aliases(_module(name))})


def _weight_names(linear: Linear) -> list[str]:
    """Names that a Linear has inside of an engine before and after it is fused; one expert stands for all."""
    names = set()
    for alias in _aliases(linear.name):
        alias = re.sub(r"\.experts\.\d+\.", ".experts.0.", alias)
        parent, _, last = alias.rpartition(".")
        names |= {alias, f"{parent}.{_FUSED.get(last, last)}"}
    return sorted(names)


def _aliases(name: str) -> list[str]:
    """The name, and what engines call it that give every MoE block one name."""
    return [name, name.replace(_ON_DISK, _IN_ENGINES)] if _ON_DISK in name else [name]
