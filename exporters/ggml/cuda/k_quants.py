"""Q2_K to Q6_K and IQ4_XS: 256 weights share one or two F16 numbers, of which their groups have multiples."""

import torch
from gguf import GGMLQuantizationType as Type

from exporters.ggml.cuda.affine_search import Affine, Grid, search_affine, search_positive
from exporters.ggml.cuda.arithmetic import GIVEN, IMPORTANCE, MAGNITUDE, SPREAD, SQUARE, sums_of_squares
from exporters.ggml.cuda.codebook_search import BOUNDS, search_codebook
from exporters.ggml.cuda.rounding import inverse, nearest, peak
from exporters.ggml.cuda.symmetric_search import search_symmetric
from exporters.ggml.packing import Blocks, as_read
from exporters.numerics.division import divide

_SPAN = 256
_SMALLEST = 1e-15


def affine(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """Q2_K, Q4_K, Q5_K of contiguous values [R, C], importance float32 [C]."""
    size, top, steps = (16, 3, 15) if qtype == Type.Q2_K else (32, 15, 63) if qtype == Type.Q4_K else (32, 31, 63)
    groups = _SPAN // size
    if importance is None:
        grid = Grid(top, -1.0, 0.1, 20) if qtype == Type.Q4_K else Grid(top, -0.5, 0.1, 15)
        narrow = qtype == Type.Q2_K
        found = search_affine(values, size, grid, MAGNITUDE if narrow else SPREAD, absolute=narrow)
        d, scales = _shares(found.scales.view(-1, groups), steps)
        m, minimums = _shares(found.minimums.view(-1, groups), steps)
        if not narrow:
            scales, minimums = scales.clamp(max=steps), minimums.clamp(max=steps)
    else:
        factor = 1.0 if qtype == Type.Q2_K else 2.0
        squares = sums_of_squares(values, _SPAN) * factor / _SPAN
        found = search_affine(values, size, Grid(top, -0.9, 0.05, 36), IMPORTANCE, importance, squares, shared=groups)
        weights = found.weights.view(-1, groups)
        d, scales = search_positive(found.scales.view(-1, groups), weights, steps)
        m, minimums = search_positive(found.minimums.view(-1, groups), weights, steps)
    scales, minimums = as_read(qtype, scales, minimums)
    d, m = d.half(), m.half()
    return Blocks(d, _recoded(values, d, m, scales, minimums, found, top), m, scales, minimums)


def _shares(numbers: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What makes the largest of a row [S, G] `steps`: float32 [S], and each number's share as a byte."""
    largest = torch.where(numbers > 0, numbers, 0.0).amax(1)
    codes = nearest(inverse(largest, steps)[:, None] * numbers)
    return divide(largest, steps), codes & 255


def _recoded(
    values: torch.Tensor,
    d: torch.Tensor,
    m: torch.Tensor,
    scales: torch.Tensor,
    minimums: torch.Tensor,
    found: Affine,
    top: int,
) -> torch.Tensor:
    """The codes under the rounded scales; those of the search where a scale is rounded to 0."""
    scale = (d.float()[:, None] * scales)[..., None]
    minimum = (m.float()[:, None] * minimums)[..., None]
    codes = nearest((values.reshape(*scales.shape, -1).float() + minimum) / scale).clamp(0, top).to(torch.uint8)
    return torch.where(scale == 0, found.codes.view(codes.shape), codes).flatten(1)


def symmetric(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """Q3_K and Q6_K of contiguous values [R, C], importance float32 [C]."""
    top = 4 if qtype == Type.Q3_K else 32
    if qtype == Type.Q6_K:
        found = search_symmetric(values, 16, top, SQUARE if importance is None else GIVEN, importance)
        d, scales = _largest_share(found.scales.view(-1, 16), 128)
    elif importance is None:
        found = search_symmetric(values, 16, top, SQUARE, refine=True)
        d, scales = _largest_share(found.scales.view(-1, 16), 32)
    else:
        squares = sums_of_squares(values, _SPAN) * 2.0 / _SPAN
        found = search_symmetric(values, 16, top, IMPORTANCE, importance, squares, shared=16)
        outer = search_symmetric(found.scales, 16, 32, GIVEN, found.weights)
        d, scales = outer.scales, outer.codes.int() - 32
    d = d.half()
    scale = (d.float()[:, None] * scales)[..., None]
    codes = nearest(values.reshape(*scales.shape, -1).float() / scale).clamp(-top, top - 1) + top
    codes = torch.where(scale == 0, found.codes.view(codes.shape), codes).flatten(1)
    if qtype == Type.Q3_K:
        return Blocks(d, codes, scales=scales + 32)
    held = peak(found.scales.view(-1, 16)).abs() >= _SMALLEST  # ggml writes zeros for the rest
    return Blocks(torch.where(held, d, 0.0), codes * held[:, None], scales=scales * held[:, None])


def _largest_share(numbers: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What makes the largest of a row [S, G] -steps: float32 [S], and each number's share, -steps..steps - 1."""
    factor = inverse(peak(numbers), -steps)
    codes = nearest(factor[:, None] * numbers).clamp(-steps, steps - 1)
    return inverse(factor), torch.where(factor[:, None] != 0, codes, -steps)


def codebook(values: torch.Tensor, qtype: Type, importance: torch.Tensor | None) -> Blocks:
    """IQ4_XS of contiguous values [R, C], importance float32 [C]."""
    if importance is None:
        scales = search_codebook(values, 32, SQUARE)
    else:
        squares = sums_of_squares(values, _SPAN) * (2.0 / _SPAN)
        scales = search_codebook(values, 32, IMPORTANCE, importance, squares, shared=8)
    scales = scales.view(-1, 8)
    d = -peak(scales) / 32
    shares = nearest(inverse(d)[:, None] * scales).clamp(-32, 31)
    codes = in_codebook(values.reshape(-1, 8, 32).float() * inverse(d[:, None] * shares)[..., None])
    return Blocks(d.half(), codes.flatten(1), scales=shares + 32)


def in_codebook(numbers: torch.Tensor) -> torch.Tensor:
    """uint8 indices of the nearest of IQ4's levels; the last for what is no number."""
    bounds = torch.tensor(BOUNDS, device=numbers.device)
    return torch.where(numbers.isnan(), 15, torch.bucketize(numbers, bounds, out_int32=True, right=True)).to(
        torch.uint8
    )
