"""Positions of values on an axis, and its ticks."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2, log10

ZERO_ROOM = 26.0
"""Pixels between a logarithmic axis's lowest value and its place for zero."""


@dataclass(frozen=True)
class Linear:
    """Values from least to most, on pixels from `start` to `end` (which may be the smaller one)."""

    least: float
    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.least) / (self.most - self.least) * (self.end - self.start)

    def ticks(self, about: int) -> tuple[float, ...]:
        """Multiples of 1, 2 or 5 times a power of ten within the axis, `about` of them."""
        step = _round_up((self.most - self.least) / about)
        first, last = ceil(self.least / step - 1e-9), floor(self.most / step + 1e-9)
        return tuple(float(f"{n * step:.12g}") for n in range(first, last + 1))


@dataclass(frozen=True)
class Log:
    """Positive values on a logarithmic axis. zero: whether it has a place for zero, at `start`, apart from them."""

    least: float
    most: float
    start: float
    end: float
    zero: bool = False

    def at(self, value: float) -> float:
        if value == 0:
            if not self.zero:
                raise ValueError("this axis has no place for zero")
            return self.start
        room = ZERO_ROOM if self.end > self.start else -ZERO_ROOM
        first = self.start + room if self.zero else self.start
        return first + log10(value / self.least) / log10(self.most / self.least) * (self.end - first)

    def ticks(self, about: int) -> tuple[float, ...]:
        """Powers of ten; with 2 and 5 times them where there is room, or 3 times where there is for one only."""
        decades = log10(self.most / self.least)
        steps = (1, 2, 5) if decades * 3 <= about else (1, 3) if decades * 2 <= about else (1,)
        every = max(1, ceil(decades / about)) if steps == (1,) else 1
        exponents = range(floor(log10(self.least)) - 1, ceil(log10(self.most)) + 1)
        values = [step * 10.0**e for e in exponents if e % every == 0 for step in steps]
        fitting = tuple(float(f"{v:.6g}") for v in values if self.least * 0.999 <= v <= self.most * 1.001)
        return (0.0, *fitting) if self.zero else fitting


@dataclass(frozen=True)
class Doubling:
    """Positive values on a logarithmic axis whose ticks are powers of two: context lengths."""

    least: float
    most: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + log2(value / self.least) / log2(self.most / self.least) * (self.end - self.start)

    def ticks(self, about: int) -> tuple[float, ...]:
        first, last = ceil(log2(self.least) - 1e-9), floor(log2(self.most) + 1e-9)
        step = max(1, ceil((last - first + 1) / about))
        return tuple(2.0**n for n in range(first, last + 1, step))


def log_around(values: Sequence[float], start: float, end: float) -> Log:
    """An axis on which all values have their place, zero included where it is among them."""
    positive = [value for value in values if value > 0] or [1.0]
    least, most = _step_down(min(positive) * 0.97), _round_up(max(positive) * 1.03)
    return Log(least, most, start, end, zero=min(values, default=1.0) == 0)


def linear_from_zero(values: Sequence[float], start: float, end: float) -> Linear:
    """From zero to a little over the largest value."""
    return Linear(0.0, (max(values, default=0.0) or 1.0) * 1.08, start, end)


def spread(wanted: Sequence[float], gap: float, least: float, most: float) -> list[float]:
    """Places near the wanted ones, in their order from least to most, no two nearer than `gap`, and within the bounds
    where there is room for all: groups that collide move apart about their middle."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    groups: list[list[float]] = []  # [sum of the wanted places, how many]
    for index in order:
        groups.append([wanted[index], 1])
        while len(groups) > 1 and _top(groups[-1], gap, least, most) < _bottom(groups[-2], gap, least, most) + gap:
            total, count = groups.pop()
            groups[-1] = [groups[-1][0] + total, groups[-1][1] + count]
    placed = [0.0] * len(wanted)
    members = iter(order)
    for group in groups:
        top = _top(group, gap, least, most)
        for position in range(int(group[1])):
            placed[next(members)] = top + position * gap
    return placed


def _top(group: Sequence[float], gap: float, least: float, most: float) -> float:
    total, count = group
    height = (count - 1) * gap
    return max(least, min(total / count - height / 2, most - height))


def _bottom(group: Sequence[float], gap: float, least: float, most: float) -> float:
    return _top(group, gap, least, most) + (group[1] - 1) * gap


def _round_up(step: float) -> float:
    power = 10.0 ** floor(log10(step))
    return float(next(factor for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9)) * power)


def _step_down(value: float) -> float:
    power = 10.0 ** floor(log10(value))
    return max(factor for factor in (1, 2, 5) if factor * power <= value * (1 + 1e-9)) * power
