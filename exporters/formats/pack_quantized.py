"""config.json of compressed-tensors' pack-quantized format: 4-bit integers with a scale and zero point per group."""

from collections.abc import Sequence
from typing import Any

from exporters.formats.compressed_tensors import VERSION

WEIGHT_PACKED = "weight_packed"
WEIGHT_SCALE = "weight_scale"
WEIGHT_ZERO_POINT = "weight_zero_point"
WEIGHT_SHAPE = "weight_shape"

FORMAT = "pack-quantized"
SCHEME = "W4A16_ASYM"


def quantization_config(bits: int, group_size: int, ignore: Sequence[str]) -> dict[str, Any]:
    """ignore: as exporters.formats.compressed_tensors.ignore_list makes it."""
    return {
        "config_groups": {
            SCHEME: {
                "format": FORMAT,
                "input_activations": None,
                "output_activations": None,
                "targets": ["Linear"],
                "weights": {
                    "actorder": None,
                    "block_structure": None,
                    "dynamic": False,
                    "group_size": group_size,
                    "num_bits": bits,
                    "observer": None,
                    "observer_kwargs": {},
                    "scale_dtype": None,
                    "strategy": "group",
                    "symmetric": False,
                    "type": "int",
                    "zp_dtype": "torch.int8",
                },
            }
        },
        "format": FORMAT,
        "global_compression_ratio": None,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "transform_config": {},
        "version": VERSION,
    }
