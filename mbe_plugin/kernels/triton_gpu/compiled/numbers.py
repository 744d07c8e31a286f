"""Floats by their bits: reading and writing three dtypes as float32, powers of two, the order of floats as integers."""

from __future__ import annotations

import triton
import triton.language as tl

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
MANTISSA = tl.constexpr(0x7FFFFF)
FIELD = tl.constexpr(0xFF)
LEAST_INTEGER = tl.constexpr(-(2**31))
LARGEST_INTEGER = tl.constexpr(2**31 - 1)
SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def bits_of(x):
    """The 32 bits of a float."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    """The float of 32 bits."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def read(pointer, inside, other, DTYPE: tl.constexpr):
    """Numbers as float32, exactly; ``other`` where not inside. bfloat16 comes as int16."""
    if DTYPE == "bfloat16":
        bits = tl.load(pointer, mask=inside, other=0).to(tl.int32) << 16
        return tl.where(inside, float_of(bits), other)
    else:
        return tl.load(pointer, mask=inside, other=other).to(tl.float32)


@triton.jit
def write(pointer, y, inside, DTYPE: tl.constexpr):
    """float32 numbers in the output's dtype, rounded to nearest even."""
    if DTYPE == "bfloat16":  # Triton's interpreter would cut the bits off
        bits = bits_of(tl.where(y == y, y, 0.0))
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        tl.store(pointer, tl.where(y == y, rounded, 0x7FC0).to(tl.int16), mask=inside)
    else:
        tl.store(pointer, y.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def rounded_to(limit, DTYPE: tl.constexpr):
    """A finite limit as a number of the input's dtype, in float32: what torch compares inputs of that dtype with."""
    if DTYPE == "bfloat16":
        bits = bits_of(limit)
        return float_of(((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16) << 16)
    elif DTYPE == "float16":
        return limit.to(tl.float16).to(tl.float32)
    else:
        return limit


@triton.jit
def power_of_two(exponent):
    """2^exponent; 0 below the normal range, infinity above."""
    return float_of(tl.minimum(tl.maximum(exponent + 127, 0), 255) << 23)


@triton.jit
def shifted(y, exponent):
    """y * 2^exponent, as scaling.scale_by_power_of_two."""
    half = exponent >> 1
    return y * power_of_two(half) * power_of_two(exponent - half)


@triton.jit
def ordered(x):
    """Floats as integers in the order of the floats; NaN is beyond infinity. Its own inverse on the bits."""
    bits = bits_of(x)
    return bits ^ ((bits >> 31) & MAGNITUDE)


@triton.jit
def in_order(integer):
    """The float that ``ordered`` has as this integer."""
    return float_of(integer ^ ((integer >> 31) & MAGNITUDE))


@triton.jit
def whole_below(x):
    """floor(x); Triton's own takes subnormal numbers for 0."""
    small = tl.abs(x) < 8388608.0  # others are whole, infinite or NaN
    cut = tl.where(small, x, 0.0).to(tl.int32).to(tl.float32)
    below = tl.where(cut > x, cut - 1.0, cut)
    return tl.where(small, tl.where(below == 0.0, x * 0.0, below), x)


@triton.jit
def block_start(program, BLOCK: tl.constexpr):
    """The first element of a program, in 64 bits."""
    return program.to(tl.int64) * BLOCK
