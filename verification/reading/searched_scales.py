"""The search of plain_rounding for scales of ggml's types, on a GPU: a program holds its groups from the first scale
that is tried to the last, where PyTorch's operations would read and write all weights a hundred times.

Sums are taken in another order than there, and no more is different.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

_WEIGHTS = 2048
"""Of a program."""


@triton.jit
def _nearest(place, halves, gaps, LOW: tl.constexpr, HIGH: tl.constexpr, NUMBERS: tl.constexpr):
    """Of the integers from LOW to HIGH; of others, NUMBERS of them, which begin at LOW with these gaps."""
    if NUMBERS:
        found = tl.full(place.shape, LOW, tl.float32)
        for number in tl.static_range(NUMBERS - 1):
            beyond = place > tl.load(halves + number)
            found = found + tl.where(beyond, tl.load(gaps + number), 0.0)
    else:
        whole = tl.full(place.shape, 12582912.0, tl.float32)  # 1.5 * 2^23, whose last bit counts ones
        found = (tl.minimum(tl.maximum(place, LOW), HIGH) + whole) - whole
    return found


@triton.jit
def _codes(
    x, scale, bottom, halves, gaps, LOW: tl.constexpr, HIGH: tl.constexpr, NUMBERS: tl.constexpr, MINIMUM: tl.constexpr
):
    divisor = tl.where(scale != 0, scale, float("inf"))
    place = (x - bottom[:, None]) / divisor[:, None] if MINIMUM else x / divisor[:, None]
    return _nearest(place, halves, gaps, LOW, HIGH, NUMBERS)


@triton.jit(do_not_specialize=("groups", "per_row", "number"))
def _search(
    values, spreads, halves, gaps, stretches, scales, bottoms, groups, per_row, number,
    N: tl.constexpr, GROUPS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, NUMBERS: tl.constexpr,
    MINIMUM: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inside = group < groups
    places = group[:, None] * N + tl.arange(0, N)[None, :]
    x = tl.load(values + places, mask=inside[:, None], other=0.0)
    high = tl.max(x, axis=1)
    low = tl.min(x, axis=1)
    if MINIMUM:
        w = tl.abs(x) + tl.load(spreads + group // per_row, mask=inside, other=0.0)[:, None]
        bottom = tl.minimum(low, 0.0)
        reach = (high - bottom) / HIGH
        count = tl.sum(w, axis=1)
    else:
        w = x * x
        bottom = tl.zeros_like(high)
        reach = tl.where(high >= -low, high, low) / LOW  # LOW is below zero, and none is farther from it
        count = tl.zeros_like(high)
    weighted = w * x
    total = tl.sum(weighted, axis=1)
    scale = reach
    lowest = bottom
    least = tl.full([GROUPS], float("inf"), tl.float32)
    for attempt in range(number):
        stretch = tl.load(stretches + attempt)
        tried = reach * stretch
        below = bottom * stretch
        for _ in tl.static_range(2):
            c = _codes(x, tried, below, halves, gaps, LOW, HIGH, NUMBERS, MINIMUM)
            products = tl.sum(weighted * c, axis=1)
            squares = tl.sum(w * c * c, axis=1)
            lost = (tried * squares - 2 * products) * tried
            fitted = tl.where(squares > 0, products / squares, tried)
            if MINIMUM:
                alone = tl.sum(w * c, axis=1)
                lost = lost + (2 * (tried * alone - total) + below * count) * below
                determinant = count * squares - alone * alone
                both = (count * products - alone * total) / determinant
                base = (squares * total - alone * products) / determinant
                sound = (determinant > 0) & (both > 0)
                both = tl.where(base <= 0, both, fitted)
                base = tl.where(base <= 0, base, 0.0)
                fitted = tl.where(sound, both, tried)
                base = tl.where(sound, base, below)
            else:
                base = below
            better = lost < least
            scale = tl.where(better, tried, scale)
            lowest = tl.where(better, below, lowest)
            least = tl.where(better, lost, least)
            tried = fitted
            below = base
    tl.store(scales + group, scale, mask=inside)
    tl.store(bottoms + group, lowest, mask=inside)


@triton.jit(do_not_specialize=("groups",))
def _round(
    values, scales, bottoms, halves, gaps, found, groups,
    N: tl.constexpr, GROUPS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, NUMBERS: tl.constexpr,
    MINIMUM: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    inside = group < groups
    places = group[:, None] * N + tl.arange(0, N)[None, :]
    x = tl.load(values + places, mask=inside[:, None], other=0.0)
    scale = tl.load(scales + group, mask=inside, other=0.0)
    bottom = tl.load(bottoms + group, mask=inside, other=0.0)
    c = _codes(x, scale, bottom, halves, gaps, LOW, HIGH, NUMBERS, MINIMUM)
    tl.store(found + places, c * scale[:, None] + bottom[:, None], mask=inside[:, None])


def searched(
    groups: torch.Tensor, spreads: torch.Tensor | None, numbers: torch.Tensor, stretches: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and minimum (zero without one) of each group, float32 [rows, groups, 1].

    groups: float32 [rows, groups, N], contiguous. spreads: float32 [rows], the root mean square of each, of types with
    a minimum; None for others. numbers: that codes stand for, the first the farthest from zero where there is no
    minimum. stretches: of the scale that reaches a group's extremes, those that are tried.
    """
    rows, per_row, _ = groups.shape
    scale, bottom = groups.new_empty(2, rows * per_row)
    grid, constants = _launch(groups, numbers, spreads is not None)
    halves, gaps = _steps(numbers, groups.device)
    given = groups if spreads is None else spreads
    tried = torch.tensor(stretches).to(groups.device)
    count = rows * per_row
    _search[grid](groups, given, halves, gaps, tried, scale, bottom, count, per_row, len(stretches), **constants)
    return scale.view(rows, per_row, 1), bottom.view(rows, per_row, 1)


def rounded(
    groups: torch.Tensor, scale: torch.Tensor, bottom: torch.Tensor, numbers: torch.Tensor, *, minimum: bool
) -> torch.Tensor:
    """Each weight as the number that stands for it times its group's scale, and its minimum: like `groups`.

    groups, scale, bottom: as `searched` takes and gives them."""
    found = torch.empty_like(groups)
    grid, constants = _launch(groups, numbers, minimum)
    halves, gaps = _steps(numbers, groups.device)
    count = groups.shape[0] * groups.shape[1]
    _round[grid](groups, scale.contiguous(), bottom.contiguous(), halves, gaps, found, count, **constants)
    return found


def _launch(groups: torch.Tensor, numbers: torch.Tensor, minimum: bool) -> tuple[tuple[int], dict[str, object]]:
    rows, per_row, width = groups.shape
    together = _WEIGHTS // width
    low, high = float(numbers[0]), float(numbers[-1])
    integers = len(numbers) == round(high - low) + 1
    constants = {"N": width, "GROUPS": together, "LOW": low, "HIGH": high, "MINIMUM": minimum}
    grid = (triton.cdiv(rows * per_row, together),)
    return grid, {**constants, "NUMBERS": 0 if integers else len(numbers)}


def _steps(numbers: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    halves, gaps = ((numbers[1:] + numbers[:-1]) / 2).to(device), numbers.diff().to(device)
    return halves, gaps
