"""Which tensors each scheme stores of a Linear, with their dtypes and shapes: what an engine allocates and waits for.

Stated from the formats' definitions (compressed-tensors 0.19, ModelOpt, AutoAWQ 0.2), not from what exporters write.
"""

from dataclasses import dataclass
from math import ceil

from verification.reading.declared import AWQ, COMPRESSED_TENSORS, FP8, MODELOPT, Scheme

FLOATS = ("BF16", "F16", "F32")
SCALES = frozenset(
    {
        "weight_scale",
        "weight_scale_2",
        "weight_scale_inv",
        "weight_global_scale",
        "input_scale",
        "input_global_scale",
        "scales",
        "pre_quant_scale",
    }
)
ZERO_POINTS = frozenset({"weight_zero_point", "input_zero_point", "qzeros"})
OTHERS = frozenset({"weight_packed", "weight_shape", "weight_g_idx", "qweight", "g_idx"})
QUANTIZED_PARTS = SCALES | ZERO_POINTS | OTHERS
"""Last parts of names that only quantized Linears have ("weight" may be either)."""

CACHE_SCALES = frozenset({"k_scale", "v_scale", "q_scale", "kv_scale", "prob_scale"})
"""Scales of an FP8 key-value cache, which stand under attention modules."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One tensor. shapes: all that readers accept. required: False where readers do without."""

    suffix: str
    dtypes: tuple[str, ...]
    shapes: tuple[Shape, ...]
    required: bool = True


def parts_of(scheme: Scheme, rows: int, columns: int) -> tuple[Part, ...] | None:
    """What a Linear [rows, columns] is stored as; None for a format that is not known here."""
    if scheme.method == COMPRESSED_TENSORS:
        return _compressed_tensors(scheme, rows, columns)
    if scheme.method == MODELOPT:
        return _modelopt(scheme, rows, columns)
    if scheme.method == AWQ:
        return _awq(scheme, rows, columns)
    if scheme.method == FP8:
        block = _block(scheme)
        if block is None:
            return None
        grid = (ceil(rows / block[0]), ceil(columns / block[1]))
        return (
            Part("weight", ("F8_E4M3",), ((rows, columns),)),
            Part("weight_scale_inv", ("F32", "BF16", "F8_E8M0"), (grid,)),
        )
    return None


def group_of(scheme: Scheme) -> int | None:
    """How many input channels share a scale; None where a row, a block of rows or the tensor does."""
    if scheme.method == AWQ:
        return _size(scheme.weights.get("group_size") or scheme.weights.get("q_group_size"))
    if "NVFP4" in scheme.format or scheme.format.startswith("nvfp4"):
        return 16
    if scheme.format.startswith("mxfp4"):
        return 32
    return _size(scheme.weights.get("group_size"))


def is_nvfp4(scheme: Scheme) -> bool:
    return scheme.format == "nvfp4-pack-quantized" or (scheme.method == MODELOPT and "NVFP4" in scheme.format)


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _block(scheme: Scheme) -> tuple[int, int] | None:
    found = scheme.weights.get("block_structure") or scheme.weights.get("weight_block_size")
    if isinstance(found, (list, tuple)) and len(found) == 2 and all(_size(size) for size in found):
        return int(found[0]), int(found[1])
    return None


def _compressed_tensors(scheme: Scheme, rows: int, columns: int) -> tuple[Part, ...] | None:
    bits = _size(scheme.weights.get("num_bits"))
    fixed = scheme.inputs is not None and not scheme.inputs.get("dynamic", False)
    asymmetric = not scheme.weights.get("symmetric", True)
    if scheme.format == "nvfp4-pack-quantized":
        return (
            *_fp4(rows, columns, "weight_packed"),
            Part("weight_global_scale", ("F32",), ((1,), ())),
            *([Part("input_global_scale", ("F32",), ((1,), ()))] if _has_input_scale(scheme) else []),
        )
    if scheme.format == "mxfp4-pack-quantized":
        return (
            Part("weight_packed", ("U8",), ((rows, columns // 2),)),
            Part("weight_scale", ("U8",), ((rows, columns // 32),)),
        )
    grid = _grid(scheme, rows, columns)
    if grid is None or bits is None:
        return None
    if scheme.format == "pack-quantized":
        per_word = 32 // bits
        parts = [
            Part("weight_packed", ("I32",), ((rows, ceil(columns / per_word)),)),
            Part("weight_scale", FLOATS, (grid,)),
            Part("weight_shape", ("I64", "I32"), ((2,),)),
            Part("weight_g_idx", ("I32",), ((columns,),), required=False),
        ]
        if asymmetric:
            parts.append(Part("weight_zero_point", ("I32",), ((ceil(rows / per_word), grid[-1]),)))
        return tuple(parts)
    if scheme.format in ("float-quantized", "int-quantized", "naive-quantized") and bits == 8:
        dtype = "F8_E4M3" if scheme.weights.get("type") == "float" else "I8"
        per_tensor: tuple[Shape, ...] = ((1,), ()) if scheme.weights.get("strategy") == "tensor" else (grid,)
        parts = [Part("weight", (dtype,), ((rows, columns),)), Part("weight_scale", FLOATS, per_tensor)]
        if fixed:
            parts.append(Part("input_scale", FLOATS, ((1,), ())))
        if asymmetric:
            parts.append(Part("weight_zero_point", (dtype,), per_tensor))
        return tuple(parts)
    return None


def _has_input_scale(scheme: Scheme) -> bool:
    """NVFP4 inputs have a global scale fixed beforehand, also where groups are scaled as they come ("local")."""
    return scheme.inputs is not None and scheme.inputs.get("dynamic") is not True


def _fp4(rows: int, columns: int, packed: str) -> tuple[Part, ...]:
    return (
        Part(packed, ("U8",), ((rows, columns // 2),)),
        Part("weight_scale", ("F8_E4M3",), ((rows, columns // 16),)),
    )


def _grid(scheme: Scheme, rows: int, columns: int) -> Shape | None:
    strategy = scheme.weights.get("strategy")
    if strategy == "channel":
        return rows, 1
    if strategy == "tensor":
        return (1,)
    if strategy == "block":
        block = _block(scheme)
        return None if block is None else (ceil(rows / block[0]), ceil(columns / block[1]))
    group = group_of(scheme)
    return None if group is None else (rows, ceil(columns / group))


def _modelopt(scheme: Scheme, rows: int, columns: int) -> tuple[Part, ...] | None:
    scalar: tuple[Shape, ...] = ((), (1,))
    if scheme.format == "FP8":
        return (
            Part("weight", ("F8_E4M3",), ((rows, columns),)),
            Part("weight_scale", ("F32",), scalar),
            Part("input_scale", ("F32",), scalar),
        )
    if scheme.format == "FP8_PER_CHANNEL_PER_TOKEN":
        return (
            Part("weight", ("F8_E4M3",), ((rows, columns),)),
            Part("weight_scale", ("F32",), ((rows,),)),
        )
    if scheme.format in ("NVFP4", "W4A16_NVFP4", "NVFP4_AWQ"):
        parts = [*_fp4(rows, columns, "weight"), Part("weight_scale_2", ("F32",), scalar)]
        if scheme.inputs is not None:
            parts.append(Part("input_scale", ("F32",), scalar))
        return tuple(parts)
    return None


def _awq(scheme: Scheme, rows: int, columns: int) -> tuple[Part, ...] | None:
    group = group_of(scheme)
    if group is None or scheme.weights.get("bits", scheme.weights.get("w_bit")) != 4:
        return None
    if str(scheme.weights.get("version", "gemm")).lower() != "gemm":
        return None
    groups = ceil(columns / group)
    zeros = (Part("qzeros", ("I32",), ((groups, rows // 8),)),) if scheme.weights.get("zero_point", True) else ()
    return (
        Part("qweight", ("I32",), ((columns, rows // 8),)),
        *zeros,
        Part("scales", ("F16", "BF16"), ((groups, rows),)),
    )
