"""Second moments of an input as they are stored: half of a symmetric matrix, as correlations in float16.

M = sum over tokens of x x^T, [C, C]. Its diagonal is the site's `sum_sq`, float32; stored are the correlations
M[i, j] / sqrt(M[i, i] M[j, j]), which lie between -1 and 1, so that float16 holds each to within 2^-12 of one: far
below the damping that every reader adds to the diagonal. Both triangles being the same, one is folded into a rectangle
without a hole (the "rectangular full packed" layout of LAPACK): with h = ceil(C / 2), rows h.. of the lower triangle
stand where they are, and the rows before them, transposed, fill the corner to their right. C^2 bytes, a quarter of
float32's.
"""

import torch

DTYPE = torch.float16


def packed_shape(channels: int) -> tuple[int, int]:
    """(h, 2 h + 1)."""
    half = -(-channels // 2)
    return half, 2 * half + 1


def packed_nbytes(channels: int) -> int:
    rows, columns = packed_shape(channels)
    return rows * columns * DTYPE.itemsize


def pack(moments: torch.Tensor) -> torch.Tensor:
    """float32 [..., C, C], symmetric -> float16 [..., h, 2 h + 1]; zeros where a channel carried nothing."""
    scale = _inverse_root(moments.diagonal(dim1=-2, dim2=-1))
    folded = moments * scale[..., :, None] * scale[..., None, :]
    half, _ = packed_shape(moments.shape[-1])
    if moments.shape[-1] % 2:
        folded = torch.nn.functional.pad(folded, (0, 1, 0, 1))
    result = moments.new_zeros(*moments.shape[:-2], half, 2 * half + 1)
    result[..., : 2 * half] = folded[..., half:, :].tril(half)
    result[..., half + 1 :] += folded[..., :half, :half].triu()
    return result.clamp(-1, 1).to(DTYPE)


def unpack(packed: torch.Tensor, sum_sq: torch.Tensor) -> torch.Tensor:
    """What `pack` packed: float32 [..., C, C], with the diagonal sum_sq [..., C], float32."""
    channels = sum_sq.shape[-1]
    half = packed.shape[-2]
    values = packed.float()
    lower = values.new_zeros(*values.shape[:-2], 2 * half, 2 * half)
    lower[..., half:, :] = values[..., : 2 * half].tril(half)
    lower[..., :half, :half] = values[..., half + 1 :].triu().mT
    root = sum_sq.sqrt()
    lower = lower[..., :channels, :channels].tril(-1) * root[..., :, None] * root[..., None, :]
    found = lower + lower.mT
    found.diagonal(dim1=-2, dim2=-1).copy_(sum_sq)
    return found


def _inverse_root(diagonal: torch.Tensor) -> torch.Tensor:
    return torch.where(diagonal > 0, diagonal.clamp(min=1e-38).rsqrt(), 0.0)


def share_of_chance(mean: torch.Tensor, common: torch.Tensor, count: int) -> float:
    """How much of what makes the mean moments of `count` tokens differ from the common ones (both float32 [C, C]) is
    chance: (tr(M)^2 + tr(M^2)) / count, over their squared distance, at most 1 (calibration.common_moments)."""
    if not count:
        return 1.0
    chance = float((mean.trace().square() + mean.square().sum()) / count)
    apart = float((mean - common).square().sum())
    return min(1.0, chance / apart) if apart > 0 else 1.0
