"""A part of a source tensor: what is read of it at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorSlice:
    """Rows [start, stop) of a source tensor along its first dimension; a stacked tensor's rows are its experts."""

    name: str
    start: int
    stop: int
