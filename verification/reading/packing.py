"""Codes out of the words and bytes that hold several, and scales spread over the weights that share one."""

import torch

E2M1_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
"""What the codes 0 to 7 of FP4 stand for; the other eight are the same below zero."""

_FP4 = torch.cat((E2M1_VALUES, -E2M1_VALUES))
_PAIRS = torch.stack((_FP4.repeat(16), _FP4.repeat_interleave(16)), -1)
"""What each byte holds: float32 [256, 2]."""

_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""AutoAWQ (awq/utils/packing_utils.py): which nibble of a 32-bit word, lowest first, holds its first, second, ...
column."""


def awq_codes(words: torch.Tensor) -> torch.Tensor:
    """int32 [R, C / 8] -> float32 [R, C] of 0 to 15."""
    places = 4 * torch.tensor(_AWQ_PLACES, dtype=torch.int32).to(words.device)
    return ((words.unsqueeze(-1) >> places) & 15).flatten(1).float()


def e2m1(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [R, C / 2] -> float32 [R, C], the low nibble first."""
    return _PAIRS.to(packed.device)[packed.int()].flatten(1)


def spread(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    """One value per block of rows and columns -> one per weight, ragged at the edges."""
    rows, columns = shape
    return scale.float().repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
