"""Products of float32 matrices, on a GPU by its tensor cores."""

from functools import cache
from types import ModuleType

import torch


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left [B or 1, N, K] @ right [B, K, R], or both without B."""
    kernels = _kernels() if right.is_cuda else None
    if kernels is None:
        return left @ right
    if right.dim() == 2:
        return product(left[None], right[None])[0]
    made = right.new_zeros(len(right), left.shape[1], right.shape[2])
    kernels.add_product(made, left, right, 1)
    return made


def add_product(into: torch.Tensor, left: torch.Tensor, right: torch.Tensor, sign: int) -> None:
    """into [B, N, R] += sign * left [B or 1, N, K] @ right [B, K, R], in place."""
    kernels = _kernels() if into.is_cuda else None
    if kernels is not None:
        kernels.add_product(into, left, right, sign)
    elif into.is_cuda:
        into.baddbmm_(left.expand(len(into), -1, -1), right, alpha=sign)
    else:  # the processor's has no way to do so at once
        into.add_(left @ right, alpha=sign)


@cache
def _kernels() -> ModuleType | None:
    """None where there is no Triton, which comes with the CUDA builds of PyTorch, and on GPUs before Ampere."""
    if torch.version.hip or torch.cuda.get_device_capability() < (8, 0):
        return None
    try:
        from exporters.rounding.cuda import products
    except ImportError:
        return None
    return products
