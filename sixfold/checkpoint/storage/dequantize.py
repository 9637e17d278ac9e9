"""Dequantization of stored weights to BF16, equal bit for bit to the plain formulas and several times as fast."""

import torch

_CHUNK = 1 << 18
"""Elements worked on at a time, so that the float32 intermediate stays in the CPU's cache."""

_SIGN_AND_MAGNITUDE = 0xBF80 - 0x10000
"""Of an E4M3 byte sign-extended to 16 bits and shifted left by 7: float16's sign, and E4M3's other bits in place."""

_MAX_SCALE = 2.0**100


def fp8_blocks(weight: torch.Tensor, scale: torch.Tensor, block: tuple[int, int], skipped: int = 0) -> torch.Tensor:
    """bfloat16(float32(weight) * scale): one rounding to float32 by the product, one to bfloat16 (ties to even).

    weight: float8_e4m3fn [R, C]. scale: float32, one per block of `block` rows and columns. skipped: rows of the first
    block that come before the first row of `weight`.

    E4M3 (4 exponent bits, bias 7) shifted into float16's place (5 bits, bias 15) is the same value times 2^-8, for
    subnormals as well; the scale compensates for it, and products with powers of two are exact. Only E4M3's NaN has no
    such counterpart, and scales near float32's limit would overflow: those take the direct route.
    """
    rows, columns = weight.shape
    result = torch.empty(rows, columns, dtype=torch.bfloat16)
    if not weight.numel():
        return result
    factors = scale if scale.shape[1] == 1 else scale.repeat_interleave(block[1], 1)[:, :columns]
    direct = _has_nan(weight) or not bool((scale.abs() < _MAX_SCALE).all())
    if not direct:
        factors = factors * 2.0**8
    height = min(max(_CHUNK // columns, 1), rows)
    halves = torch.empty(height, columns, dtype=torch.int16)
    floats = torch.empty(height, columns, dtype=torch.float32)
    start = 0
    while start < rows:
        first = (start + skipped) // block[0]
        stop = min(start + height, rows)
        if block[0] > 1:  # one row of factors a chunk
            stop = min(stop, (first + 1) * block[0] - skipped)
            factor = factors[first]
        else:
            factor = factors[first : first + stop - start]
        chunk, half, wide = weight[start:stop], halves[: stop - start], floats[: stop - start]
        if direct:
            wide.copy_(chunk)
        else:
            half.copy_(chunk.view(torch.int8))
            half <<= 7
            half &= _SIGN_AND_MAGNITUDE
            wide.copy_(half.view(torch.float16))
        wide *= factor
        result[start:stop] = wide
        start = stop
    return result


def mxfp4_experts(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """E2M1 value * 2^(scale - 127), transposed to the layout of a BF16 gpt-oss checkpoint.

    blocks: uint8 [E, R, G, 16], two values a byte, the low nibble first. scales: uint8 [E, R, G].
    Returns bfloat16 [E, 32 G, R]; exact, but for what exceeds bfloat16's range (infinite).
    """
    experts, rows, groups, _ = blocks.shape
    result = torch.empty(experts, groups * 32, rows, dtype=torch.bfloat16)
    height = max(_CHUNK // max(groups * 32, 1), 1)
    for expert in range(experts):
        for start in range(0, rows, height):
            part = blocks[expert, start : start + height]
            pairs = torch.index_select(_E2M1_PAIRS, 0, part.to(torch.int32).flatten())
            values = pairs.view(torch.bfloat16).view(len(part), groups, 32)
            values *= _POWERS[scales[expert, start : start + height].to(torch.int32)].unsqueeze(-1)
            result[expert, :, start : start + height] = values.view(len(part), -1).t()
    return result


def fp4_groups(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """bfloat16(E2M1 value * scale), [R, C]. packed: uint8 [R, C / 2], the even column in the low half. scale: float32
    [R, groups]."""
    rows, columns = packed.shape[0], packed.shape[1] * 2
    result = torch.empty(rows, columns, dtype=torch.bfloat16)
    height = max(_CHUNK // max(columns, 1), 1)
    for start in range(0, rows, height):
        part = packed[start : start + height]
        pairs = torch.index_select(_E2M1_PAIRS, 0, part.to(torch.int32).flatten())
        values = pairs.view(torch.bfloat16).view(len(part), scale.shape[1], -1).float()
        values *= scale[start : start + height].unsqueeze(-1) * 0.5  # the table's values are doubled
        result[start : start + height] = values.view(len(part), columns)
    return result


def _has_nan(weight: torch.Tensor) -> bool:
    """E4M3's two NaNs are the largest bytes: 0x7F of signed ones, 0xFF of unsigned ones."""
    return int(weight.view(torch.int8).amax()) == 0x7F or int(weight.view(torch.uint8).amax()) == 0xFF


def _e2m1_pairs() -> torch.Tensor:
    """int32 [256]: the two bfloat16 values of each byte side by side, doubled."""
    positive = 2 * torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([positive, -positive]).to(torch.bfloat16)
    byte = torch.arange(256)
    return torch.stack([values[byte & 15], values[byte >> 4]], 1).view(torch.int32).flatten()


_E2M1_PAIRS = _e2m1_pairs()
_POWERS = (torch.arange(256, dtype=torch.float64) - 128).exp2().to(torch.bfloat16)
"""E8M0 byte -> half of 2^(byte - 127): 255, NaN by the OCP standard, is 2^128 to transformers, beyond bfloat16."""
