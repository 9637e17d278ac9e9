"""Products of float32 matrices by tensor cores, as exact as those of float32.

A float32 is the sum of three BF16 numbers, a = a0 + a1 + a2, each 2^-8 of the one before or less. Of the nine products
of two such sums the six largest leave out no more than some 2^-24 of |a| |b|, what float32 itself rounds away; one
product of six times the length adds them up in float32.
"""

import torch
import triton
import triton.language as tl

_PARTS = 6
_TOGETHER = 512
"""Columns of the left matrix that are split at a time."""


@triton.jit
def _split(
    numbers, parts, length, rows, width, batch_stride, row_stride, sign, LEFT: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """numbers: [B, rows, width], the last dimension contiguous. parts: BF16 [B, 6, rows, width]."""
    batch = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < rows) & (column < width)
    left = tl.load(numbers + batch * batch_stride + row.to(tl.int64) * row_stride + column, mask=inside, other=0.0)
    left = left * sign
    first = left.to(tl.bfloat16)
    left = left - first.to(tl.float32)
    second = left.to(tl.bfloat16)
    third = (left - second.to(tl.float32)).to(tl.bfloat16)
    length = length.to(tl.int64)
    parts += batch * 6 * length + row.to(tl.int64) * width + column
    if LEFT:
        tl.store(parts, first, mask=inside)
        tl.store(parts + length, first, mask=inside)
        tl.store(parts + 2 * length, second, mask=inside)
        tl.store(parts + 3 * length, second, mask=inside)
        tl.store(parts + 4 * length, first, mask=inside)
        tl.store(parts + 5 * length, third, mask=inside)
    else:
        tl.store(parts, first, mask=inside)
        tl.store(parts + length, second, mask=inside)
        tl.store(parts + 2 * length, first, mask=inside)
        tl.store(parts + 3 * length, second, mask=inside)
        tl.store(parts + 4 * length, third, mask=inside)
        tl.store(parts + 5 * length, first, mask=inside)


def split(numbers: torch.Tensor, left: bool, sign: int = 1) -> torch.Tensor:
    """float32 [B, N, C], the last dimension contiguous -> BF16 [B, 6 * N, C]: the parts of `sign` times each number, in
    the order in which those of the other side meet them."""
    batch, rows, width = numbers.shape
    parts = torch.empty(batch, _PARTS * rows, width, dtype=torch.bfloat16, device=numbers.device)
    grid = (triton.cdiv(width, 512), triton.cdiv(rows, 4), batch)
    _split[grid](
        numbers, parts, rows * width, rows, width, numbers.stride(0), numbers.stride(1), float(sign),
        LEFT=left, ROWS=4, BLOCK=512, num_warps=4,
    )  # fmt: skip
    return parts


def add_product(into: torch.Tensor, left: torch.Tensor, right: torch.Tensor, sign: int) -> None:
    """into [B, N, R] += sign * left^T @ right, in place: left [B or 1, K, N], right [B, K, R]."""
    for first in range(0, left.shape[1], _TOGETHER):
        last = first + _TOGETHER
        a = split(left[:, first:last], True).mT.expand(len(into), -1, -1)
        b = split(right[:, first:last], False, sign)
        torch.baddbmm(into, a, b, out_dtype=torch.float32, out=into)
