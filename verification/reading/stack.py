"""Several quantized matrices of one shape, read at once and looked at as one with all their rows."""

from dataclasses import dataclass

import torch

from verification.reading.stored_codes import Codes


@dataclass(frozen=True)
class Stack:
    """values: float32 [matrices * rows, columns]. codes: of these; None where they need not be the nearest."""

    values: torch.Tensor
    codes: Codes | None
