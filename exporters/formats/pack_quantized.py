"""config.json of compressed-tensors' pack-quantized format: 4-bit integers with a scale and zero point per group."""

from collections.abc import Sequence
from typing import Any

from exporters.formats.compressed_tensors import Scheme, arguments, config_of

WEIGHT_PACKED = "weight_packed"
WEIGHT_SCALE = "weight_scale"
WEIGHT_ZERO_POINT = "weight_zero_point"
WEIGHT_SHAPE = "weight_shape"

FORMAT = "pack-quantized"
SCHEME = "W4A16_ASYM"


def quantization_config(bits: int, group_size: int, ignore: Sequence[str]) -> dict[str, Any]:
    """ignore: as exporters.formats.compressed_tensors.ignore_list makes it."""
    return config_of(SCHEME, scheme(bits, group_size), ignore)


def scheme(bits: int, group_size: int) -> Scheme:
    weights = arguments(bits, "group", group_size=group_size, symmetric=False, type="int", zp_dtype="torch.int8")
    return Scheme(FORMAT, weights, None)
