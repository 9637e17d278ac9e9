"""The parameters that formats try, as kernels find them: what a format's `candidates` and `around` do, one by one.

A scale comes with a third number: a zero point, a minimum, or what is not read. `tried` and `near` are tables of three
numbers a candidate, as exporters.rounding.cuda.forms makes them.
"""

import triton
import triton.language as tl

from exporters.rounding.cuda.nearest import clamp, to_mantissa, whole


@triton.jit
def _e4m3_near(parameter, offset, unit):
    """The positive E4M3 number so many steps from the nearest, under the global scale. Their bits count upwards."""
    rounded = to_mantissa(tl.minimum(parameter * unit, 448.0), 3, 0.015625)
    high = (rounded.to(tl.int32, bitcast=True) >> 20) - 960  # E4M3's bias is 120 below float32's
    code = tl.where(rounded < 0.015625, (rounded * 512.0).to(tl.int32), high)
    near = clamp(code + offset.to(tl.int32), 1, 126)
    number = tl.where(near < 8, near.to(tl.float32) * 0.001953125, ((near + 960) << 20).to(tl.float32, bitcast=True))
    return tl.div_rn(number, unit)


@triton.jit
def _power(exponent, offset):
    return ((clamp(exponent + offset.to(tl.int32), -126, 124) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _exponent(x):
    return (x.to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def stored(scale, FORM: tl.constexpr):
    """As files hold it."""
    if FORM.least > 0:
        scale = tl.maximum(scale, FORM.least)
    if FORM.bf16:
        scale = scale.to(tl.bfloat16).to(tl.float32)
    if FORM.f16:
        scale = clamp(scale, -65504.0, 65504.0).to(tl.float16).to(tl.float32)
    return scale


@triton.jit
def _multiple(number, unit, FORM: tl.constexpr):
    """The multiple of the unit that is nearest."""
    quotient = tl.div_rn(number, tl.where(unit == 0, 1.0, unit))
    return whole(clamp(quotient, FORM.multiples_low, FORM.multiples_high)) * unit


@triton.jit
def _as_held(scale, third, shared, shared_third, FORM: tl.constexpr):
    """K-quants' numbers: multiples of what the span shares, or F16."""
    scale = _multiple(scale, shared, FORM) if FORM.span > 0 else stored(scale, FORM)
    if FORM.search == "pairs":
        third = _multiple(third, shared_third, FORM) if FORM.span > 0 else stored(third, FORM)
    return scale, third


@triton.jit
def spread(k, low, high, tried, FORM: tl.constexpr):
    """K-quants' numbers before they are rounded, from the extremes of a group: none above, none below zero."""
    first = tl.load(tried + 3 * k)
    second = tl.load(tried + 3 * k + 1)
    if FORM.search == "scales":  # the largest number stands at a level, or beyond it
        scale = tl.div_rn(tl.where(high >= -low, high, low) * first, second)
        third = scale
    else:
        third = -(low * first)
        scale = tl.div_rn(high * second + third, FORM.high)
    return scale, third


@triton.jit
def candidate(k, low, high, shared, shared_third, unit, tried, FORM: tl.constexpr):
    """The k-th for a group with these extremes."""
    first = tl.load(tried + 3 * k)
    second = tl.load(tried + 3 * k + 1)
    third = low
    if FORM.search == "e4m3":
        scale = _e4m3_near(tl.div_rn(tl.maximum(high, -low), 6.0), first, unit)
    elif FORM.search == "powers":
        least = tl.maximum(tl.div_rn(tl.maximum(high, -low), 6.0), 1.1754943508222875e-38)
        up = (least.to(tl.int32, bitcast=True) & 0x7FFFFF) != 0
        scale = _power(_exponent(least) + up.to(tl.int32), first)
    elif FORM.search == "rows":
        scale = shared
    elif FORM.search == "ends":
        low = low * first
        scale = stored(tl.div_rn(high * second - low, FORM.high), FORM)
        third = whole(clamp(tl.div_rn(low, -tl.where(scale == 0, 1.0, scale)), 0.0, FORM.high))
    else:
        scale, third = spread(k, low, high, tried, FORM)
        scale, third = _as_held(scale, third, shared, shared_third, FORM)
    return scale, third


@triton.jit
def neighbor(k, scale, third, fitted, fitted_third, shared, shared_third, unit, near, FORM: tl.constexpr):
    """The k-th near those that are held, `scale` and `third`, and those that fit the codes best."""
    which = tl.load(near + 3 * k)
    step = tl.load(near + 3 * k + 1)
    other = tl.load(near + 3 * k + 2)
    if FORM.search == "e4m3":
        scale = _e4m3_near(scale, step, unit)
    elif FORM.search == "powers":
        scale = _power(_exponent(scale), step)
    elif FORM.search == "ends":
        apart = tl.where(which == 2, tl.div_rn(scale, FORM.nudge), scale * FORM.nudge)
        scale = tl.where(which == 0, scale, tl.where(which == 1, fitted, stored(apart, FORM)))
        third = clamp(third + other, 0.0, FORM.high)
    elif FORM.search != "rows":
        apart = tl.where(which == 2, tl.div_rn(fitted, FORM.nudge), fitted * FORM.nudge)
        scale = tl.where(which == 0, scale, tl.where(which == 1, fitted, apart))
        third = tl.where(which == 0, third, fitted_third)
        if FORM.span > 0:
            scale += step * shared
            if FORM.search == "pairs":
                third += other * shared_third
        scale, third = _as_held(scale, third, shared, shared_third, FORM)
    return scale, third
