"""ggml's arithmetic in PyTorch, every operation rounded as in its C code; on any device."""

import torch

from exporters.numerics.division import divide


def inverse(numbers: torch.Tensor, of: float = 1.0) -> torch.Tensor:
    """of / numbers, and 0 where they are 0."""
    return torch.where(numbers != 0, divide(of, numbers), 0.0)


def nearest(numbers: torch.Tensor) -> torch.Tensor:
    """int32, by ggml's nearest_int; a NaN is x86's, whose bits below the quiet one are 0."""
    bits = (numbers + 12582912.0).view(torch.int32)
    return torch.where(numbers.isnan(), 0, (bits & 0x7FFFFF) - 0x400000)


def truncated(numbers: torch.Tensor) -> torch.Tensor:
    """int32, as a C cast on x86 and its lowest byte taken: 0 for what is no number or infinite."""
    return torch.where(numbers.isfinite(), numbers, 0.0).to(torch.int32)


def half_away(numbers: torch.Tensor) -> torch.Tensor:
    """C's roundf: halves go away from zero."""
    whole = numbers.trunc()
    return whole + ((numbers - whole).abs() >= 0.5) * numbers.sign()


def peak(numbers: torch.Tensor) -> torch.Tensor:
    """Of each row of [B, N], the first number of largest magnitude; NaNs are passed over. 0 for a row of zeros."""
    numbers = torch.where(numbers.isnan(), 0.0, numbers)
    found = numbers.gather(1, numbers.abs().max(1).indices[:, None])[:, 0]
    return torch.where(found != 0, found, 0.0)


def first(numbers: torch.Tensor, *, largest: bool) -> torch.Tensor:
    """Of each row of [B, N], the first of the largest, or smallest, numbers: zeros have signs."""
    indices = (numbers.max(1) if largest else numbers.min(1)).indices
    return numbers.gather(1, indices[:, None])[:, 0]
