"""A weight rounded plainly to the format that an artifact holds it in: what the format costs, without any artifact.

Everything here follows from a format's definition (compressed-tensors 0.19, ModelOpt, AutoAWQ, ggml-common.h) and the
source's weight; nothing comes from the artifact's own codes or scales, and nothing is shared with the exporters. Blocks
are rounded by themselves, each to the nearest numbers under a scale that follows from its largest weight.

ggml's K-quants and IQ4 leave the scale to a search, so theirs is the best of a few near the plain one, and is then
rounded together with those of its superblock. Best is what loses least, weighted as llama.cpp's quantizers weigh
(ggml-quants.c): by weight^2, by |weight| + root mean square where groups have minima, and where the importance of input
channels is given, for every type, by importance * sqrt(mean square of the row + weight^2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional

from verification.reading.declared import AWQ, FP8, Scheme
from verification.reading.nearest import nearest
from verification.reading.packing import E2M1_VALUES
from verification.reading.stored_parts import group_of, is_nvfp4

_E4M3, _E2M1 = 448.0, 6.0
_PIECE = 1 << 17
"""Weights rounded at a time, which a processor's cache holds; on a GPU it is a whole matrix."""

_LARGE = 1 << 26
"""Weights from which on a GPU searches by kernels, which are worth compiling then."""

_STRETCHES = (1.0, 0.93, 0.86, 1.06)
"""Scales that are tried, as parts of the one that reaches the block's extremes."""

IQ4 = torch.tensor([-127.0, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])


@dataclass(frozen=True)
class Layout:
    """How a format stores a matrix. kind: "float8", "nvfp4", "mxfp4" (compressed-tensors'), "integers", or one of
    ggml's types.

    block: rows and columns that share a scale, 0 for all. bits, symmetric: of integers.
    """

    kind: str
    block: tuple[int, int] = (1, 0)
    bits: int = 8
    symmetric: bool = True


@dataclass(frozen=True)
class _Ggml:
    """group: weights with one scale. numbers: what codes stand for; with a minimum of its own, a group's codes count
    from there. scale_steps: integers that a superblock rounds its scales to, 0 where each is an F16 by itself.
    searched: whether scales are searched without importance too."""

    group: int
    numbers: torch.Tensor
    minimum: bool = False
    scale_steps: int = 0
    searched: bool = True


def _levels(low: int, high: int) -> torch.Tensor:
    return torch.arange(low, high + 1, dtype=torch.float32)


_GGML: Mapping[str, _Ggml] = {
    "Q8_0": _Ggml(32, _levels(-127, 127), searched=False),
    "Q6_K": _Ggml(16, _levels(-32, 31), scale_steps=127),
    "Q5_K": _Ggml(32, _levels(0, 31), minimum=True, scale_steps=63),
    "Q5_1": _Ggml(32, _levels(0, 31), minimum=True, searched=False),
    "Q5_0": _Ggml(32, _levels(-16, 15), searched=False),
    "Q4_K": _Ggml(32, _levels(0, 15), minimum=True, scale_steps=63),
    "Q4_1": _Ggml(32, _levels(0, 15), minimum=True, searched=False),
    "Q4_0": _Ggml(32, _levels(-8, 7), searched=False),
    "IQ4_NL": _Ggml(32, IQ4),
    "IQ4_XS": _Ggml(32, IQ4, scale_steps=31),
    "Q3_K": _Ggml(16, _levels(-4, 3), scale_steps=31),
    "Q2_K": _Ggml(16, _levels(0, 3), minimum=True, scale_steps=15),
}
_RAISED_FROM = {"mxfp4": 1.75, "MXFP4": 2.0}
"""From which multiple of its power of two a group's largest weight gets a larger scale (mxfp_utils, ggml-quants)."""
_FLOAT4 = ("nvfp4", *_RAISED_FROM)
_SUPERBLOCK = 256
_PLAIN = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def layout_of_scheme(scheme: Scheme) -> Layout | None:
    """None for a format that is not known here."""
    weights = scheme.weights
    if is_nvfp4(scheme):
        return Layout("nvfp4", (1, 16))
    if scheme.format.startswith("mxfp4"):
        return Layout("mxfp4", (1, 32))
    if scheme.method == AWQ:
        group = group_of(scheme)
        return None if group is None else Layout("integers", (1, group), 4, not weights.get("zero_point", True))
    if scheme.method == FP8:
        block = weights.get("weight_block_size")
        return Layout("float8", (int(block[0]), int(block[1]))) if block else None
    if scheme.format in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"):
        return Layout("float8", (0, 0) if scheme.format == "FP8" else (1, 0))
    shape = _block_of(scheme)
    if shape is None:
        return None
    if weights.get("type") == "float":
        return Layout("float8", shape) if weights.get("num_bits") == 8 else None
    return Layout("integers", shape, int(weights.get("num_bits", 8)), bool(weights.get("symmetric", True)))


def _block_of(scheme: Scheme) -> tuple[int, int] | None:
    strategy = scheme.weights.get("strategy")
    if strategy == "block":
        block: Any = scheme.weights.get("block_structure") or (128, 128)
        return int(block[0]), int(block[1])
    group = group_of(scheme)
    return {"channel": (1, 0), "tensor": (0, 0)}.get(str(strategy), None if group is None else (1, group))


def layout_of_ggml(kind: str) -> Layout | None:
    """kind: ggml's name of a type that is not a float."""
    if kind == "MXFP4":
        return Layout(kind, (1, 32))
    return Layout(kind) if kind in _GGML else None


def rounded_to_dtype(source: torch.Tensor, dtype: str) -> torch.Tensor:
    """A plain tensor as a type of safetensors or GGUF holds it; float32. Others than floats stay as they are."""
    return source.to(_PLAIN.get(dtype, torch.float32)).float()


def can_be_stacked(layout: Layout, rows: int) -> bool:
    """Whether matrices of so many rows under one another are rounded as each by itself."""
    height, _ = layout.block
    return layout.kind in _GGML or layout.kind in _FLOAT4 or (bool(height) and rows % height == 0)


def rounded_plainly(
    source: torch.Tensor, layout: Layout, importance: torch.Tensor | None = None, matrices: int = 1
) -> torch.Tensor:
    """What is left of a weight, float32 [out, in]. source: float32 [out, in], of several `matrices` under one another
    that can be stacked. importance: float32 [in], for ggml's.

    Rows that blocks do not divide are rounded as if zeros followed.
    """
    unit = _unit(layout)
    if source.shape[1] % unit:
        more = -source.shape[1] % unit
        wide = None if importance is None else functional.pad(importance, (0, more))
        return rounded_plainly(functional.pad(source, (0, more)), layout, wide, matrices)[:, : source.shape[1]]
    if layout.kind in _GGML:
        ggml = _GGML[layout.kind]
        return _in_pieces(source, lambda part, _: _ggml(part, ggml, importance))
    if layout.kind == "nvfp4":
        largest = source.view(matrices, -1).abs().amax(1).clamp(min=1e-30)
        units = (_E4M3 * _E2M1 / largest.double()).float().repeat_interleave(len(source) // matrices)
        return _in_pieces(source, lambda part, rows: _nvfp4(part, units[rows]))
    if layout.kind in _RAISED_FROM:
        raised = _RAISED_FROM[layout.kind]
        return _in_pieces(source, lambda part, _: _mxfp4(part, raised))
    largest = _per_block(source.abs(), layout.block, torch.amax)
    if layout.kind == "float8":
        scale = (largest / _E4M3).clamp(min=1e-30)
        return (source / scale).clamp(-_E4M3, _E4M3).to(torch.float8_e4m3fn).float() * scale
    if layout.symmetric:
        half = 2 ** (layout.bits - 1)
        scale = (largest / ((2**layout.bits - 1) / 2)).clamp(min=1e-30)
        return (source / scale).round().clamp(-half, half - 1) * scale
    lowest = _per_block(source, layout.block, torch.amin).clamp(max=0)
    highest = _per_block(source, layout.block, torch.amax).clamp(min=0)
    top = 2**layout.bits - 1
    scale = ((highest - lowest) / top).clamp(min=1e-30)
    zero = (-lowest / scale).round().clamp(0, top)
    return ((source / scale + zero).round().clamp(0, top) - zero) * scale


def _unit(layout: Layout) -> int:
    """What a row must be a multiple of."""
    if layout.kind not in _GGML:
        return layout.block[1] if layout.kind in _FLOAT4 else 1
    return _SUPERBLOCK if _GGML[layout.kind].scale_steps else _GGML[layout.kind].group


def _in_pieces(source: torch.Tensor, rounding: Callable[[torch.Tensor, slice], torch.Tensor]) -> torch.Tensor:
    """rounding: gets some rows, and which."""
    step = max(1, source.shape[0] if source.is_cuda else _PIECE // source.shape[1])
    rows = [slice(start, start + step) for start in range(0, source.shape[0], step)]
    return torch.cat([rounding(source[some], some) for some in rows])


def _per_block(values: torch.Tensor, block: tuple[int, int], reduce: Any) -> torch.Tensor:
    """The extreme of every block, spread over it: [out, in]."""
    height, width = block[0] or values.shape[0], block[1] or values.shape[1]
    rows, columns = values.shape
    edge = (0, -columns % width, 0, -rows % height)
    padded = functional.pad(values, edge)
    found = reduce(padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width), (1, 3))
    return found.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns]


def _nvfp4(source: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    groups, unit = source.unflatten(1, (-1, 16)), units.view(-1, 1, 1)
    scale = (groups.abs().amax(-1, keepdim=True) / _E2M1 * unit).clamp(max=_E4M3).to(torch.float8_e4m3fn).float() / unit
    numbers = torch.cat((-E2M1_VALUES[1:].flip(0), E2M1_VALUES))
    return (nearest(groups / scale.clamp(min=1e-30), numbers) * scale).flatten(1)


def _mxfp4(source: torch.Tensor, raised: float) -> torch.Tensor:
    groups = source.unflatten(1, (-1, 32))
    largest = groups.abs().amax(-1, keepdim=True).clamp(min=2.0**-120)
    mantissa, exponent = torch.frexp(largest)
    scale = torch.exp2((exponent - 3 + (mantissa * 2 >= raised)).float())
    numbers = torch.cat((-E2M1_VALUES[1:].flip(0), E2M1_VALUES))
    return (nearest(groups / scale, numbers) * scale).flatten(1)


def _ggml(source: torch.Tensor, kind: _Ggml, importance: torch.Tensor | None) -> torch.Tensor:
    if importance is None and kind.searched and source.numel() >= _LARGE and _has_kernels():
        return _by_kernels(source, kind)
    x = source.unflatten(1, (-1, kind.group))
    if importance is not None:
        weights = weighted_by(source, importance)
    else:
        weights = source.abs() + source.pow(2).mean(1, keepdim=True).sqrt() if kind.minimum else source.pow(2)
    stretches = _STRETCHES if kind.searched or importance is not None else _STRETCHES[:1]
    scale, lowest = _searched(x, kind, weights.unflatten(1, (-1, kind.group)), stretches)
    scale, lowest = _stored(scale, kind), -_stored(-lowest, kind)
    return (_codes(x, scale, lowest, kind) * scale + lowest).flatten(1)


def _by_kernels(source: torch.Tensor, kind: _Ggml) -> torch.Tensor:
    from verification.reading.searched_scales import rounded, searched

    x = source.contiguous().unflatten(1, (-1, kind.group))
    spreads = torch.linalg.vector_norm(source, dim=1) / source.shape[1] ** 0.5 if kind.minimum else None
    scale, lowest = searched(x, spreads, kind.numbers, _STRETCHES)
    scale, lowest = _stored(scale, kind), -_stored(-lowest, kind)
    return rounded(x, scale, lowest, kind.numbers, minimum=kind.minimum).flatten(1)


@cache
def _has_kernels() -> bool:
    return torch.cuda.is_available() and find_spec("triton") is not None


def weighted_by(source: torch.Tensor, importance: torch.Tensor) -> torch.Tensor:
    """What each squared error counts, float32 [out, in]."""
    return importance * (source.pow(2).mean(1, keepdim=True) + source.pow(2)).sqrt()


def _searched(
    x: torch.Tensor, kind: _Ggml, weights: torch.Tensor, stretches: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and minimum (zero without one) of each group, [..., 1]: the plain ones, or the best of several."""
    if kind.minimum:
        bottom = x.amin(-1, keepdim=True).clamp(max=0)
        reach = (x.amax(-1, keepdim=True) - bottom) / kind.numbers[-1]
    else:
        extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
        bottom, reach = torch.zeros_like(extreme), extreme / kind.numbers.abs().amax() * kind.numbers[0].sign()
    if len(stretches) == 1:
        return reach, bottom
    scale, lowest, least = reach, bottom, torch.full_like(reach, torch.inf)
    given = _Given(weights, weights * x, minimum=kind.minimum)
    for stretch in stretches:
        tried = reach * stretch, bottom * stretch
        for _ in range(2):  # as it is, and fitted to the codes that it gives
            sums = given.sums(_codes(x, *tried, kind))
            lost = given.lost(sums, *tried)
            better = lost < least
            scale, lowest = torch.where(better, tried[0], scale), torch.where(better, tried[1], lowest)
            least = torch.minimum(lost, least)
            tried = given.fitted(sums, *tried)
    return scale, lowest


def _codes(x: torch.Tensor, scale: torch.Tensor, lowest: torch.Tensor, kind: _Ggml) -> torch.Tensor:
    """Under a scale of zero that of zero."""
    divisor = torch.where(scale != 0, scale, torch.inf)
    return nearest((x - lowest).div_(divisor) if kind.minimum else x / divisor, kind.numbers)


@dataclass(frozen=True)
class _Sums:
    """Of a group's codes c, with weights w of their errors and values x: of w c^2, w c x and w c, [..., 1]."""

    squares: torch.Tensor
    products: torch.Tensor
    codes: torch.Tensor | None


class _Given:
    """What scales are judged by: passes over all weights are what a search takes, so that it makes few."""

    def __init__(self, weights: torch.Tensor, weighted: torch.Tensor, *, minimum: bool) -> None:
        """weights, weighted: w and w x, [..., group]. minimum: whether groups have one."""
        self._weights, self._weighted = weights, weighted
        self._count = weights.sum(-1, keepdim=True) if minimum else None
        self._total = weighted.sum(-1, keepdim=True) if minimum else None

    def sums(self, codes: torch.Tensor) -> _Sums:
        products = (self._weighted * codes).sum(-1, keepdim=True)
        weighted = self._weights * codes
        alone = None if self._count is None else weighted.sum(-1, keepdim=True)
        return _Sums(weighted.mul_(codes).sum(-1, keepdim=True), products, alone)

    def lost(self, sums: _Sums, scale: torch.Tensor, lowest: torch.Tensor) -> torch.Tensor:
        """The sum of w (scale c + lowest - x)^2, but for that of w x^2, which is the same whatever is tried."""
        found = (scale * sums.squares - 2 * sums.products) * scale
        if sums.codes is None or self._count is None or self._total is None:
            return found
        return found + (2 * (scale * sums.codes - self._total) + lowest * self._count) * lowest

    def fitted(self, sums: _Sums, scale: torch.Tensor, lowest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and minimum by weighted least squares of given codes; those that were tried where these decide
        nothing."""
        alone = torch.where(sums.squares > 0, sums.products / sums.squares, scale)
        if sums.codes is None or self._count is None or self._total is None:
            return alone, lowest
        determinant = self._count * sums.squares - sums.codes**2
        both = (self._count * sums.products - sums.codes * self._total) / determinant
        bottom = (sums.squares * self._total - sums.codes * sums.products) / determinant
        sound = (determinant > 0) & (both > 0)
        below = bottom <= 0  # llama.cpp stores no minimum above zero
        both, bottom = torch.where(below, both, alone), torch.where(below, bottom, torch.zeros_like(bottom))
        return torch.where(sound, both, scale), torch.where(sound, bottom, lowest)


def _stored(scale: torch.Tensor, kind: _Ggml) -> torch.Tensor:
    """As the block keeps it: in F16, or in steps of the superblock's own F16."""
    if not kind.scale_steps:
        return scale.half().float()
    superblocks = scale.flatten(1).unflatten(1, (-1, _SUPERBLOCK // kind.group))
    unit = (superblocks.abs().amax(-1, keepdim=True) / kind.scale_steps).half().float()
    steps = torch.where(unit > 0, superblocks / unit, torch.zeros_like(superblocks)).round()
    return (steps * unit).flatten(1).unsqueeze(-1)
