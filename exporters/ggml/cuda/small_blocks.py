"""Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and IQ4_NL: 32 weights to a block of their own."""

import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.cuda.affine_search import Grid, search_affine
from exporters.ggml.cuda.arithmetic import IMPORTANCE, SQUARE, sums_of_squares
from exporters.ggml.cuda.codebook_search import search_codebook
from exporters.ggml.cuda.k_quants import in_codebook
from exporters.ggml.cuda.rounding import first, half_away, inverse, peak, truncated
from exporters.ggml.cuda.symmetric_search import search_symmetric
from exporters.ggml.packing import Blocks
from exporters.numerics.division import divide

_SIZE = 32


def eight_bits(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """Q8_0 of contiguous values [R, C]; no importance changes it."""
    blocks = values.reshape(-1, _SIZE).float()
    d = divide(blocks.abs().amax(1), 127)
    scaled = blocks * inverse(d)[:, None]
    return Blocks(d.half(), truncated(half_away(scaled)))


def symmetric(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """Q4_0 and Q5_0 of contiguous values [R, C], importance float32 [C]."""
    top = 8 if qtype == Type.Q4_0 else 16
    if importance is not None:
        found = search_symmetric(
            values, _SIZE, top, IMPORTANCE, importance, _row_squares(values), shared=values.shape[1] // _SIZE
        )
        return Blocks(found.scales.half(), found.codes)
    blocks = values.reshape(-1, _SIZE).float()
    d = peak(blocks) / -top
    codes = truncated(blocks * inverse(d)[:, None] + (top + 0.5)).clamp(max=2 * top - 1)
    return Blocks(d.half(), codes)


def affine(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """Q4_1 and Q5_1 of contiguous values [R, C], importance float32 [C]."""
    top = 15 if qtype == Type.Q4_1 else 31
    if importance is not None:
        grid, shared = Grid(top, -0.9, 0.05, 36), values.shape[1] // _SIZE
        found = search_affine(values, _SIZE, grid, IMPORTANCE, importance, _row_squares(values), shared=shared)
        return Blocks(found.scales.half(), found.codes, (-found.minimums).half())
    blocks = values.reshape(-1, _SIZE).float()
    low = first(blocks, largest=False)
    d = divide(first(blocks, largest=True) - low, top)
    codes = truncated((blocks - low[:, None]) * inverse(d)[:, None] + 0.5).clamp(max=top)
    return Blocks(d.half(), codes, low.half())


def codebook(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """IQ4_NL of contiguous values [R, C], importance float32 [C]."""
    if importance is None:
        scales = search_codebook(values, _SIZE, SQUARE)
    else:
        squares = sums_of_squares(values, _SIZE) * (2.0 / _SIZE)
        scales = search_codebook(values, _SIZE, IMPORTANCE, importance, squares)
    codes = in_codebook(values.reshape(-1, _SIZE).float() * inverse(scales)[:, None])
    return Blocks(scales.half(), codes)


def _row_squares(values: torch.Tensor) -> torch.Tensor:
    return divide(sums_of_squares(values, values.shape[1]), float(values.shape[1]))
