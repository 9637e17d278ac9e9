"""Codes out of the words and bytes that hold several, and scales spread over the weights that share one."""

import torch

E2M1_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
"""What the codes 0 to 7 of FP4 stand for; the other eight are the same below zero."""

_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""AutoAWQ (awq/utils/packing_utils.py): which nibble of a 32-bit word, lowest first, holds its first, second, ...
column."""


def awq_codes(words: torch.Tensor) -> torch.Tensor:
    """int32 [R, C / 8] -> float32 [R, C] of 0 to 15."""
    nibbles = torch.stack([(words >> (4 * place)) & 15 for place in _AWQ_PLACES], -1)
    return nibbles.flatten(1).float()


def e2m1(packed: torch.Tensor) -> torch.Tensor:
    """uint8 [R, C / 2] -> float32 [R, C], the low nibble first."""
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    rows, half = packed.shape
    return unpack_fp4_from_uint8(packed, rows, 2 * half, dtype=torch.float32)


def spread(scale: torch.Tensor, shape: torch.Size, block: tuple[int, int]) -> torch.Tensor:
    """One value per block of rows and columns -> one per weight, ragged at the edges."""
    rows, columns = shape
    return scale.float().repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
