"""The nearest of the numbers that a format has, for each of many values."""

import torch

_E4M3_NUMBERS = 253
"""How many the one grid has that is rounded to as a type of its own."""

_LONGEST = 1 << 12
"""Entries of a table."""

_FEW = 64
"""Numbers that a GPU finds the place among in one pass over the values."""


def nearest(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """float32 of the shape of `values`; half way between two it is either. numbers: float32, sorted, on the CPU.

    Looked up, where halves between numbers are multiples of 1/4: a search for each value takes ten times as long.
    """
    low, high = float(numbers[0]), float(numbers[-1])
    if len(numbers) == round(high - low) + 1:
        return values.round().clamp_(low, high)
    if len(numbers) == _E4M3_NUMBERS:
        return values.clamp(low, high).to(torch.float8_e4m3fn).float()
    halves = (numbers[1:] + numbers[:-1]) / 2
    if values.is_cuda and len(halves) < _FEW:
        return numbers.to(values.device)[torch.bucketize(values.contiguous(), halves.to(values.device), out_int32=True)]
    steps = 4 * halves
    if 4 * (high - low) > _LONGEST or not torch.equal(steps, steps.round()):
        return numbers.to(values.device)[torch.bucketize(values.contiguous(), halves.to(values.device))]
    first, last = int(steps[0]), int(steps[-1]) + 1
    table = numbers[torch.bucketize(torch.arange(first, last + 1.0), steps)].to(values.device)
    place = (values * 4).ceil_().clamp_(first, last).int().clamp_(first, last)  # a NaN is no integer
    return table[place.sub_(first)]
