"""Whether every code is the nearest to its weight: finds the one damaged code that no error of a tensor or a block
shows.

Scales may be chosen by any search, but with the scales given, round-to-nearest leaves every weight within half a step
of its number. Tools that move weights as they round (GPTQ, learned rounding) leave many that are not, and many just
beyond half a step; where there are such, nothing is said. Where nearly all are nearest, one that is more than a step
away was not rounded so: its bits, or the weight in the source, changed afterwards.
"""

from dataclasses import dataclass

import torch

from verification.reading.nearest import nearest as nearest_of
from verification.reading.stored_codes import Codes

_STEPS = 0.75
"""Half a step, and a quarter for arithmetic in BF16 and scales that were rounded after the codes were found."""

_JUST_BEYOND = 0.15
"""Of a step, below what is allowed: where more codes lie than beyond it, they are the tail of another rounding."""

_FEW = 0.01
"""Share of codes that damage may touch; more are another way of rounding."""

_MANY = 0.05
"""Share of codes, those included that nearly are out of place, which other ways of rounding leave so at least."""

_DEVIATIONS = 5.0
"""Standard errors of a fitted factor that its weight may be off by."""

_FEW_NUMBERS = 1 << 16
"""Of which each is searched for."""

_HALF_SUBNORMAL = 2.0**-25
"""How far rounding to F16 may move a subnormal scale."""


@dataclass(frozen=True)
class Misplaced:
    """The worst code. steps: between its number and its weight. held, source: both weights. count: of all such."""

    row: int
    column: int
    steps: float
    held: float
    source: float
    count: int


@dataclass(frozen=True)
class Placement:
    """How the codes of one weight lie. worst: None where none is out of place. count: of those that are. nearly: of
    those that nearly are. size: of all."""

    worst: Misplaced | None
    count: int
    nearly: int
    size: int

    @property
    def misplaced(self) -> Misplaced | None:
        """None where every code is nearest, or where so many are not that they were not rounded to nearest."""
        return self.worst if self.are_few else None

    def and_also(self, counts: tuple[int, int], size: int) -> "Placement":
        """With as many codes more, of which so many are and nearly are out of place."""
        return Placement(None, self.count + counts[0], self.nearly + counts[1], self.size + size)

    @property
    def are_few(self) -> bool:
        """Whether what is out of place is so little that damage may have done it."""
        return self.count <= _FEW * self.size and self.nearly <= self.count

    @property
    def is_nearest(self) -> bool:
        """Whether they were rounded to nearest, whatever was damaged since."""
        return self.count + self.nearly <= _MANY * self.size


def misplaced(codes: Codes, source: torch.Tensor, uncertain: torch.Tensor | None = None) -> Misplaced | None:
    """See `Placement.misplaced`, and `placement`."""
    return placement(codes, source, uncertain).misplaced


def placement(codes: Codes, source: torch.Tensor, uncertain: torch.Tensor | None = None) -> Placement:
    """How far each code is from where its weight lies.

    source: float32 [out, in], with scales that were moved into the artifact's weight already applied. uncertain:
    relative standard error of these scales, float32 that broadcasts to it.
    """
    scale = codes.scale.expand(source.shape)
    at, steps, allowed = _doubtful(codes, source, uncertain)
    wrong = steps > allowed
    count = int(wrong.sum())
    nearly = int((steps > allowed - _JUST_BEYOND).sum()) - count
    worst = None
    if count:
        far = torch.where(wrong, steps, torch.zeros_like(steps))
        row, column = divmod(int(at[int(far.argmax())]), source.shape[1])
        held = codes.numbers[row, column] * scale[row, column] + codes.base.expand(source.shape)[row, column]
        values = float(held), float(source[row, column])
        worst = Misplaced(row, column, float(far.max()), *values, count)
    return Placement(worst, count, nearly, source.numel())


def out_of_place(codes: Codes, source: torch.Tensor, matrices: int) -> list[tuple[int, int]]:
    """`Placement.count` and `nearly` of each of several matrices under one another."""
    at, steps, allowed = _doubtful(codes, source, None)
    of = torch.div(at, source.numel() // matrices, rounding_mode="floor")
    beyond, all_doubted = (
        of[steps > limit].bincount(minlength=matrices) for limit in (allowed, allowed - _JUST_BEYOND)
    )
    return list(zip(beyond.tolist(), (all_doubted - beyond).tolist(), strict=True))


def _doubtful(
    codes: Codes, source: torch.Tensor, uncertain: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(places in the flattened source of codes that are not the nearest, how many steps each is off, how many it may
    be). All others are within half a step, which is allowed to every one."""
    scale = codes.scale.expand(source.shape)
    places = (source if codes.base.numel() == 1 else source - codes.base) / scale
    at = torch.nonzero(((nearest_of(places, codes.grid) != codes.numbers) & (scale != 0)).flatten()).flatten()
    numbers, off = codes.numbers.flatten()[at], places.flatten()[at]
    scale = scale.flatten()[at] if scale.is_contiguous() else scale.reshape(-1)[at]
    gap = _gaps(numbers, off - numbers, codes.grid)
    steps = (off - numbers).abs() / gap
    allowed = _STEPS + numbers.abs() * (_HALF_SUBNORMAL / scale.abs().clamp(min=1e-30)) / gap
    if uncertain is not None:
        doubt = uncertain.expand(source.shape).reshape(-1)[at]
        there = (source.flatten()[at] / scale).abs().nan_to_num(posinf=0)
        allowed = allowed + _DEVIATIONS * doubt * there / gap
    return at, steps, allowed


def worst_of(
    codes: Codes, source: torch.Tensor, scale: torch.Tensor, steps: torch.Tensor, wrong: torch.Tensor, count: int
) -> Misplaced:
    """Of the codes that are `wrong`, the one most steps away from its place in `source`; all [out, in]."""
    place = int(torch.where(wrong, steps, torch.zeros_like(steps)).argmax())
    row, column = divmod(place, source.shape[1])
    held = codes.numbers[row, column] * scale[row, column] + codes.base.expand(source.shape)[row, column]
    return Misplaced(row, column, float(steps[row, column]), float(held), float(source[row, column]), count)


def nearest(codes: Codes, weight: torch.Tensor) -> torch.Tensor:
    """What rounding a weight to nearest under the same scales would have stored, float32 [out, in]."""
    scale = codes.scale.expand(weight.shape)
    places = torch.where(scale != 0, (weight - codes.base) / scale, torch.zeros_like(weight))
    return nearest_of(places, codes.grid) * scale + codes.base


def at_an_end(codes: Codes) -> torch.Tensor:
    """Bool [out, in]: the smallest and the largest numbers, which also stand for weights beyond them."""
    return (codes.numbers <= codes.grid[0]) | (codes.numbers >= codes.grid[-1])


def steps_off(codes: Codes, places: torch.Tensor, least: float = 0.0) -> torch.Tensor:
    """How many steps of the grid there each place is off its number; beyond an end is not off.

    least: a step that is smaller counts as one of this size.
    """
    off = places - codes.numbers
    return off.abs() / _gaps(codes.numbers, off, codes.grid).clamp_(min=least)


def _gaps(numbers: torch.Tensor, off: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """How far the next number of the grid is from each of `numbers`, on the side of `off`; infinite beyond an end."""
    if len(grid) == round(float(grid[-1] - grid[0])) + 1:
        beyond = ((off > 0) & (numbers >= grid[-1].item())) | ((off <= 0) & (numbers <= grid[0].item()))
        return torch.ones_like(numbers).masked_fill_(beyond, torch.inf)
    end = torch.full((1,), torch.inf)
    gaps = torch.cat((end, grid.diff(), end)).to(numbers.device)
    return gaps[place_in_grid(numbers, grid).clamp_(max=len(grid) - 1) + (off > 0)]  # a NaN is nowhere


def place_in_grid(numbers: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Where each of `numbers` stands in the grid: int32 of their shape.

    Numbers of eight bits and fewer are float16 as well, so they are looked up by its 2^16 patterns: a search for each
    takes longer than everything else that is done with it.
    """
    if numbers.numel() < _FEW_NUMBERS or not torch.equal(grid.half().float(), grid):
        return torch.searchsorted(grid.to(numbers.device), numbers.contiguous(), out_int32=True)
    table = torch.zeros(1 << 16, dtype=torch.int32)
    table[_patterns(grid)] = torch.arange(len(grid), dtype=torch.int32)
    return table.to(numbers.device)[_patterns(numbers)]


def _patterns(numbers: torch.Tensor) -> torch.Tensor:
    """As float16, -0 as 0: int32, from 0 to 2^16 - 1."""
    return (numbers + 0.0).half().view(torch.int16).int() & 0xFFFF
