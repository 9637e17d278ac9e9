"""What kernels are compiled for, and the level of a format that is nearest to a number."""

from dataclasses import dataclass

import triton
import triton.language as tl


@dataclass(frozen=True)
class Compiled:
    """A format as kernels see it. levels, low, high, bits, smallest: as of exporters.rounding.format.Levels.

    search: which parameters are tried, as of exporters.rounding.cuda.candidates. group, span: columns; 0 without spans.
    multiples: the smallest and the largest, of what a span shares. nudge: between neighboring scales. bf16, f16, least:
    types that scales are rounded to, and the least there is.
    """

    levels: str
    low: float
    high: float
    bits: int
    smallest: float
    search: str
    group: int
    span: int = 0
    multiples_low: float = 0.0
    multiples_high: float = 0.0
    nudge: float = 1.0
    bf16: bool = False
    f16: bool = False
    least: float = 0.0


@triton.jit
def whole(x):
    """Rounded, halfway cases to even; |x| below 2^22."""
    middle = tl.full(x.shape, 12582912.0, tl.float32)  # 1.5 * 2^23, whose last bit counts ones
    return (x + middle) - middle


@triton.jit
def clamp(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def to_mantissa(x, BITS: tl.constexpr, SMALLEST: tl.constexpr):
    """As exporters.rounding.floats.to_mantissa_."""
    power = (x.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    middle = tl.maximum(power, SMALLEST) * (12582912.0 / (1 << BITS))
    return (x + middle) - middle


@triton.jit
def inverse_of(scale):
    """0 where the scale is: every level means 0 then."""
    zero = scale == 0
    return tl.where(zero, 0.0, tl.div_rn(1.0, tl.where(zero, 1.0, scale)))


@triton.jit
def nearest(x, inverse, scale, third, table, FORM: tl.constexpr):
    """As the formats' `nearest`: `third` is a zero point or a minimum; `table` holds numbers by halves of a level."""
    if FORM.levels == "minimum":
        level = (x + third) * inverse
    elif FORM.levels == "zero":
        level = x * inverse + third
    else:
        level = x * inverse
    if FORM.levels == "table":
        level = tl.load(table + (clamp(tl.floor(level * 2.0), FORM.low, FORM.high) - FORM.low).to(tl.int32))
    elif FORM.levels == "floats":
        level = to_mantissa(clamp(level, FORM.low, FORM.high), FORM.bits, FORM.smallest)
    else:
        level = whole(clamp(level, FORM.low, FORM.high))
    if FORM.levels == "zero":
        level = level - third
    level = level * scale
    if FORM.levels == "minimum":
        level = level - third
    return level
