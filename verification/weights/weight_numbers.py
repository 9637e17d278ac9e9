"""Whether every weight is finite: all that can be checked of dequantized weights without their source."""

from collections.abc import Callable, Iterator

import torch

from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.weights import CodedWeights

ZERO = "weights.zero"

UNREADABLE = (KeyError, ValueError, RuntimeError, TypeError, IndexError, AssertionError, ArithmeticError)
"""What readers, and the libraries that they ask, raise where the parts of a tensor do not fit together."""


def unreadable(name: str, error: Exception) -> Finding:
    what = f"it cannot be dequantized ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    return Finding("weights.unreadable", name, what, "loading stops, or rows shift", EXPORT_AGAIN)


def check_numbers(weights: CodedWeights, advance: Callable[[int], None]) -> Iterator[Finding]:
    """Without a source: no NaN, no infinity, and no matrix that became zero.

    A matrix may have been zero in the source (an expert that was pruned so, or never trained); then every block of it
    was stored alike. Where blocks differ, their codes or their scales were lost.
    """
    for name in weights.names():
        try:
            tensor = weights.read(name)
            found = list(numbers_of(name, weights.encoding(name), tensor))
            if [finding.check for finding in found] == [ZERO] and weights.alike(name):
                found = []
        except UNREADABLE as error:
            yield unreadable(name, error)
            continue
        yield from found
        advance(tensor.numel())


def are_numbers(values: torch.Tensor, matrices: int) -> list[bool]:
    """Of each of several matrices under one another, whether all weights are finite and not all are zero."""
    low, high = torch.aminmax(values.view(matrices, -1), dim=1)  # a NaN is both
    return (torch.isfinite(low) & torch.isfinite(high) & ((low != 0) | (high != 0))).tolist()


def numbers_of(name: str, encoding: str, tensor: torch.Tensor) -> Iterator[Finding]:
    if tensor.numel() and are_numbers(tensor.reshape(1, -1), 1)[0]:
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():
        place = torch.nonzero(bad)[0].tolist()
        what = f"{int(bad.sum())} of {tensor.numel()} weights are NaN or infinite, the first at {place}"
        yield Finding("weights.not-finite", name, what, "answers become NaN, then pad tokens", EXPORT_AGAIN)
    elif encoding and tensor.dim() == 2 and not tensor.any():
        yield Finding(ZERO, name, "every weight is zero", "the module does nothing", EXPORT_AGAIN)
