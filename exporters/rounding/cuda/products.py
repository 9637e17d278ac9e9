"""Products of float32 matrices by tensor cores, about as exact as those of float32.

A float32 is the sum of three BF16 numbers, a = a0 + a1 + a2, each 2^-8 of the one before or less. Of the nine products
of two such sums the six largest leave out no more than some 2^-24 of |a| |b|, what float32 itself rounds away. One
product of six times the length adds them up, in the float32 of tensor cores, which cut off what does not fit: the small
ones come first, while sums are small.
"""

import torch
import triton
import triton.language as tl

_PARTS = 6
_TOGETHER = (128, 512)
"""At least and at most so many columns of the left matrix are split at a time."""


@triton.jit
def _split(
    numbers, parts, batch_step, row_step, part_step, parts_row_step, parts_batch_step, rows, width, sign,
    LEFT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """numbers: [B, rows, width], the last dimension contiguous; parts likewise, each part `part_step` from the last."""
    batch = tl.program_id(2).to(tl.int64)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    column = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < rows) & (column < width)
    left = tl.load(numbers + batch * batch_step + row * row_step + column, mask=inside, other=0.0) * sign
    first = left.to(tl.bfloat16)
    left = left - first.to(tl.float32)
    second = left.to(tl.bfloat16)
    third = (left - second.to(tl.float32)).to(tl.bfloat16)
    parts += batch * parts_batch_step + row * parts_row_step + column
    tl.store(parts, third if LEFT else first, mask=inside)
    tl.store(parts + part_step, first if LEFT else third, mask=inside)
    tl.store(parts + 2 * part_step, second, mask=inside)
    tl.store(parts + 3 * part_step, second if LEFT else first, mask=inside)
    tl.store(parts + 4 * part_step, first if LEFT else second, mask=inside)
    tl.store(parts + 5 * part_step, first, mask=inside)


def _parts(numbers: torch.Tensor, left: bool, sign: int = 1) -> torch.Tensor:
    """float32 [B, N, C] -> BF16: the parts of `sign` times each number, in the order in which those of the other side
    meet them, one after the other along C of a left matrix, [B, N, 6 * C], along N of a right one, [B, 6 * N, C]."""
    flat = numbers.stride(-1) == 1
    if not flat:
        numbers = numbers.mT if numbers.stride(-2) == 1 else numbers.mT.contiguous()
    batch, rows, width = numbers.shape
    beside = left == flat  # along the dimension that is contiguous
    shape = (batch, rows, _PARTS * width) if beside else (batch, _PARTS * rows, width)
    parts = torch.empty(shape, dtype=torch.bfloat16, device=numbers.device)
    _split[triton.cdiv(width, 512), triton.cdiv(rows, 4), batch](
        numbers, parts, numbers.stride(0), numbers.stride(1), width if beside else rows * width,
        parts.stride(1), parts.stride(0), rows, width, float(sign), LEFT=left, ROWS=4, BLOCK=512, num_warps=4,
    )  # fmt: skip
    return parts if flat else parts.mT


def add_product(into: torch.Tensor, left: torch.Tensor, right: torch.Tensor, sign: int) -> None:
    """into [B, N, R] += sign * left [B or 1, N, K] @ right [B, K, R], in place. The parts of the right matrix take no
    more memory than `into`, where that has 384 rows or more."""
    least, most = _TOGETHER
    together = min(max(into.shape[1] // (3 * least) * least, least), most)
    for first in range(0, right.shape[1], together):
        part = slice(first, first + together)
        a = _parts(left[:, :, part], True).expand(len(into), -1, -1)
        torch.baddbmm(into, a, _parts(right[:, part], False, sign), out_dtype=torch.float32, out=into)
