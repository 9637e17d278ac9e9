"""config.json of compressed-tensors' pack-quantized format: 4-bit integers with a scale and zero point per group."""

import re
from collections.abc import Sequence
from typing import Any

WEIGHT_PACKED = "weight_packed"
WEIGHT_SCALE = "weight_scale"
WEIGHT_ZERO_POINT = "weight_zero_point"
WEIGHT_SHAPE = "weight_shape"


def quantization_config(bits: int, group_size: int, not_converted: Sequence[str]) -> dict[str, Any]:
    """not_converted: modules as AutoAWQ's config lists them (exporters.formats.module_names)."""
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": False,
                    "strategy": "group",
                    "group_size": group_size,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": [entry for name in not_converted for entry in _ignored(name)],
    }


def _ignored(name: str) -> list[str]:
    """Names are matched whole here, so a module of experts and a whole layer need a regular expression."""
    if name.endswith((".", ".experts")):
        return [rf"re:{re.escape(name.rstrip('.'))}\..*"]
    return [name]
