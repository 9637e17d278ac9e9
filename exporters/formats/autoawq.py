"""config.json of AutoAWQ's format, and its one trap: modules are excluded by substring.

vLLM and SGLang leave a module unquantized when any entry of `modules_to_not_convert` occurs anywhere in its name, and
transformers when an entry matches at its beginning or end. So `mlp.gate`, meant for a router, also hits a dense layer's
`mlp.gate_proj`, and the engine then looks for weights that are not there. Entries here are full names with the layer's
number, and `check_not_converted` proves on the plan's own names that they hit what they should and nothing else.
"""

import re
from collections.abc import Sequence
from typing import Any

from exporters.formats.module_names import aliases, module_names
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear

QUANT_METHOD = "awq"
VERSION = "gemm"
QWEIGHT = "qweight"
QZEROS = "qzeros"
SCALES = "scales"

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
    "in_proj_qkv": "in_proj_qkvz",
    "in_proj_z": "in_proj_qkvz",
    "in_proj_b": "in_proj_ba",
    "in_proj_a": "in_proj_ba",
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


def check_not_converted(entries: Sequence[str], linears: Sequence[Linear], quantized: frozenset[str]) -> None:
    """Raises SixfoldError where an entry hits a quantized Linear under any name that engines know it by, or another
    Linear is missed under one."""
    checked: set[str] = set()
    for linear in linears:
        if linear.name not in quantized:
            continue
        for name in (*module_names(linear), *_weight_names(linear)):
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
        for name in module_names(linear):
            if not any(_hits(entry, name) for entry in entries):
                raise SixfoldError(
                    f"AWQ: {linear.name} is not quantized, but engines would convert it as {name!r}",
                    "this is a defect of the exporter: report it with the recipe",
                )


def _hits(entry: str, name: str) -> bool:
    """vLLM and SGLang: substring. transformers: a regular expression at the beginning, or the end of the name."""
    return entry in name or re.match(entry, name) is not None


def _weight_names(linear: Linear) -> list[str]:
    """Names that a Linear has inside of an engine before and after it is fused; one expert stands for all."""
    names = set()
    for alias in aliases(linear.name):
        alias = re.sub(r"\.experts\.\d+\.", ".experts.0.", alias)
        parent, _, last = alias.rpartition(".")
        names |= {alias, f"{parent}.{_FUSED.get(last, last)}"}
    return sorted(names)
