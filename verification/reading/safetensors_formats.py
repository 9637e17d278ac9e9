"""One quantized Linear from the tensors that a folder holds of it, as float32, by each layout's own definition.

compressed-tensors' tensors are unpacked and scaled by that library's functions, in float32 throughout. Nothing here is
shared with the exporters.
"""

from collections.abc import Mapping

import torch

from verification.reading.declared import AWQ, COMPRESSED_TENSORS, FP8, MODELOPT, Scheme
from verification.reading.packing import awq_codes, e2m1, spread

Parts = Mapping[str, torch.Tensor]


def dequantize_linear(scheme: Scheme, parts: Parts) -> torch.Tensor:
    """float32 [out, in]. parts: by the last part of their names. Raises KeyError for one that is missing."""
    if scheme.method == COMPRESSED_TENSORS:
        return _compressed_tensors(scheme, parts)
    if scheme.method == MODELOPT:
        return _modelopt(parts)
    if scheme.method == AWQ:
        return awq_gemm(parts["qweight"], parts["qzeros"], parts["scales"])
    if scheme.method == FP8:
        block = scheme.weights["weight_block_size"]
        return scaled_blocks(parts["weight"], parts["weight_scale_inv"], (block[0], block[1]))
    raise KeyError(scheme.method)


def _compressed_tensors(scheme: Scheme, parts: Parts) -> torch.Tensor:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    arguments = QuantizationArgs.model_validate(dict(scheme.weights))
    scale = parts["weight_scale"]
    if scheme.format == "nvfp4-pack-quantized":
        values = e2m1(parts["weight_packed"])
        result = dequantize(values, scale.float(), args=arguments, global_scale=parts["weight_global_scale"].float())
    elif scheme.format == "mxfp4-pack-quantized":
        exponent = scale.view(torch.uint8).float() - 127
        result = e2m1(parts["weight_packed"]) * torch.exp2(exponent).repeat_interleave(32, 1)
    elif scheme.format == "pack-quantized":
        rows, columns = (int(size) for size in parts["weight_shape"])
        codes = unpack_from_int32(parts["weight_packed"], arguments.num_bits, torch.Size((rows, columns)))
        zero = parts.get("weight_zero_point")
        if zero is not None:
            zero = unpack_from_int32(zero, arguments.num_bits, torch.Size((rows, scale.shape[-1])), packed_dim=0)
        index = parts.get("weight_g_idx")
        if index is None:
            result = dequantize(codes, scale.float(), zero, args=arguments)
        else:  # columns were reordered by activation: each names its own group
            offset = 0 if zero is None else zero.float()[:, index.long()]
            result = (codes.float() - offset) * scale.float()[:, index.long()]
    elif arguments.strategy == "block":
        height, width = arguments.block_structure or (128, 128)
        return scaled_blocks(parts["weight"], scale, (int(height), int(width)))
    else:
        zero = parts.get("weight_zero_point")
        result = dequantize(parts["weight"], scale.float(), zero, args=arguments)
    return result.float()


def _modelopt(parts: Parts) -> torch.Tensor:
    """FP8: weight * weight_scale. NVFP4: E2M1 * weight_scale * weight_scale_2."""
    weight, scale = parts["weight"], parts["weight_scale"].float()
    if weight.dtype == torch.uint8:
        return e2m1(weight) * (scale * parts["weight_scale_2"].float()).repeat_interleave(16, 1)
    return weight.float() * (scale.reshape(-1, 1) if scale.numel() > 1 else scale)


def scaled_blocks(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """weight [R, C] times one scale per block of rows and columns, ragged at the edges."""
    return weight.float() * spread(scale, weight.shape, block)


def awq_gemm(qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales [groups, out] -> float32 [out, in]."""
    group = qweight.shape[0] // scales.shape[0]
    codes, zeros = awq_codes(qweight), awq_codes(qzeros)
    spread = (codes - zeros.repeat_interleave(group, 0)) * scales.float().repeat_interleave(group, 0)
    return spread.t().contiguous()
