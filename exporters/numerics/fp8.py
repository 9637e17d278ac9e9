"""FP8 (E4M3) weights with one scale per output channel or per 128 x 128 block, as compressed-tensors defines them,
or with one scale per group of tensors, as ModelOpt's readers need them.

In the weight's own dtype (BF16, F16 or F32), with every operation rounded to it:

    scale = max |w| / 448, and the dtype's epsilon where that is zero
    q     = E4M3(clamp(w / scale, -448, 448))

The quotient is rounded twice, first to the weight's dtype and then to E4M3, both to nearest even. Source of the
formula: compressed_tensors 0.19, quantization/utils/helpers.py `calculate_qparams` and
quantization/lifecycle/forward_helpers.py `_quantize`; tests hold every bit against them.

On a processor, work goes through cache-sized blocks of rows. Measured on one AVX2 core, ns per BF16 weight: these
blocks, with torch's own cast, 1.6; whole tensors 4.4; a 65536-entry table 3.1 (its index must be widened to 64 bits
first). On a GPU tensors are taken as a whole, with the same bytes, which stay there.
"""

from collections.abc import Sequence

import numpy as np
import torch

from exporters.numerics.division import divide
from exporters.numerics.magnitudes import as_floats, bits_of, magnitude_mask, refuse_non_finite, require_finite

E4M3_MAX = 448.0
BLOCK = 128
_BLOCK_BYTES = 1024 * 1024
"""Weights handled at a time: one block, its quotients and its result stay in a core's cache."""


def quantize_channels(weight: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One scale per row: F8_E4M3 [out, in] and scales [out, 1] in the weight's dtype.

    Raises SixfoldError, naming `name`, where a weight is NaN or infinite.
    """
    if weight.is_cuda:
        return whole_channels(weight, name)
    rows, columns = weight.shape
    weight = weight.contiguous()
    quantized = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, 1, dtype=weight.dtype)
    step = max(1, _BLOCK_BYTES // (columns * weight.element_size()))
    bits, scratch = bits_of(weight), _Scratch(min(step, rows), columns, weight.dtype)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        largest = scratch.magnitudes(bits[part]).max(axis=1, keepdims=True)
        refuse_non_finite(int(largest.max()), weight.dtype, name)
        scales[part] = _scale(as_floats(largest, weight.dtype))
        scratch.divide_and_round(weight[part], scales[part], quantized[part])
    return quantized, scales


def quantize_blocks(weight: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One scale per 128 x 128 block: F8_E4M3 [out, in], and [ceil(out / 128), ceil(in / 128)] in the weight's dtype.

    Blocks at the edges may be smaller; what is missing counts as zero. Raises SixfoldError as `quantize_channels` does.
    """
    if weight.is_cuda:
        return whole_blocks(weight, name)
    rows, columns = weight.shape
    weight = weight.contiguous()
    quantized = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // BLOCK), -(-columns // BLOCK), dtype=weight.dtype)
    edges = np.arange(0, columns, BLOCK)
    bits, scratch = bits_of(weight), _Scratch(min(BLOCK, rows), columns, weight.dtype)
    for block, start in enumerate(range(0, rows, BLOCK)):
        part = slice(start, min(start + BLOCK, rows))
        largest = np.maximum.reduceat(scratch.magnitudes(bits[part]).max(axis=0), edges)
        refuse_non_finite(int(largest.max()), weight.dtype, name)
        scales[block] = _scale(as_floats(largest, weight.dtype))
        per_column = scales[block].repeat_interleave(BLOCK)[:columns].unsqueeze(0)
        scratch.divide_and_round(weight[part], per_column, quantized[part])
    return quantized, scales


def whole_channels(weight: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """As `quantize_channels`, on any device and all at once."""
    largest = weight.abs().amax(1, keepdim=True)
    require_finite([largest], [name])
    scale = _scale(largest)
    return _rounded(weight / scale), scale


def whole_blocks(weight: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """As `quantize_blocks`, on any device and all at once."""
    rows, columns = weight.shape
    sizes = torch.nn.functional.pad(weight.abs(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    largest = sizes.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).amax((1, 3))
    require_finite([largest], [name])
    scale = _scale(largest)
    each = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return _rounded(weight / each), scale


def _rounded(quotients: torch.Tensor) -> torch.Tensor:
    return quotients.clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def quantize_tensors(weights: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One scale for all of `weights`, which engines fuse: F8_E4M3 of the same shapes, and float32 [1] on the host.

    scale = max |w| / 448 (1 for zeros) and q = E4M3(w / scale), both in float32. Raises SixfoldError, with the name out
    of `names`, where a weight is NaN or infinite.
    """
    largest = []
    for weight in weights:
        low, high = torch.aminmax(weight)
        largest.append(torch.maximum(-low, high).float())
    require_finite(largest, names)
    scale = static_scale(torch.stack(largest).max().reshape(1).cpu())
    return [_divide_by(weight, scale.to(weight.device)) for weight in weights], scale


def static_scale(largest: torch.Tensor) -> torch.Tensor:
    """max |x| over 448 in float32, 1 where that is zero; of tensors on the host."""
    scale = largest.float() / E4M3_MAX
    return scale.masked_fill(scale == 0, 1.0)


def _divide_by(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if weight.is_cuda:
        return _rounded(weight.float() / scale)
    quantized = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    step = max(1, _BLOCK_BYTES // (weight.shape[1] * 4))
    for start in range(0, weight.shape[0], step):
        part = slice(start, start + step)
        quantized[part] = (weight[part].float() / scale).clamp_(-E4M3_MAX, E4M3_MAX)
    return quantized


def _scale(largest: torch.Tensor) -> torch.Tensor:
    """max |w| -> scale, in the dtype of `largest`."""
    scale = divide(largest, E4M3_MAX)
    return scale.masked_fill_(scale == 0, torch.finfo(scale.dtype).eps)


class _Scratch:
    """Memory for one block of rows, reused from block to block."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        self.quotients = torch.empty(rows, columns, dtype=dtype)
        self.integers = bits_of(self.quotients)
        self.mask = magnitude_mask(dtype)

    def magnitudes(self, bits: np.ndarray) -> np.ndarray:
        return np.bitwise_and(bits, self.mask, out=self.integers[: len(bits)])

    def divide_and_round(self, weight: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> None:
        quotients = torch.div(weight, scale, out=self.quotients[: len(weight)])
        # A scale with its full precision is at most a part in 2^8 too small, and E4M3 rounds anything below 464 to 448:
        # only a subnormal scale, which has lost bits, can let a quotient overflow.
        if scale.min() < torch.finfo(scale.dtype).tiny:
            quotients.clamp_(-E4M3_MAX, E4M3_MAX)
        out.copy_(quotients)
