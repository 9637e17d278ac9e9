"""Rounding float32 to floats of few bits, in arithmetic that processors do at full speed."""

import torch

_EXPONENT = 0x7F800000
"""The bits of a float32 that hold its exponent: what they leave of a number is the power of two below it."""


def to_mantissa_(values: torch.Tensor, bits: int, smallest: float) -> torch.Tensor:
    """float32, in place: the nearest numbers with so many bits behind the leading one, halfway cases to even.

    smallest: the smallest normal number; below it steps are as wide as there. A float32 of 1.5 * 2^23 steps has no room
    for parts of a step, so adding and subtracting it rounds.
    """
    power = (values.view(torch.int32) & _EXPONENT).view(torch.float32)
    whole = power.clamp_(min=smallest).mul_(1.5 * 2.0 ** (23 - bits))
    return values.add_(whole).sub_(whole)
