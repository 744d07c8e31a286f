"""Numbers of 16 and 32 bits, their bits and powers of two; reading and writing a block of them."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.machine import bits_of, float32s, float_of, stage, uint16s
from mbe_plugin.kernels.numba_cpu.compiled.words import BFLOAT16, DTYPE, FLOAT32, INPUT, OUTPUT

BLOCK = 240  # elements, a multiple of what a register holds
I32, I64, U, F = np.int32, np.int64, np.uint32, np.float32
ZERO, ONE, HALF, INFINITY, NAN = F(0), F(1), F(0.5), F(np.inf), F(np.nan)
LARGEST = F((2.0 - 2.0**-23) * 2.0**127)
LARGEST_BFLOAT16, LARGEST_FLOAT16 = F((2.0 - 2.0**-7) * 2.0**127), F(65504.0)
MAGNITUDE, FIELD, MANTISSA = 0x7FFFFFFF, 0xFF, 0x7FFFFF


@stage
def read(a, first, count, x):
    """The block's input as float32."""
    if a[DTYPE] == FLOAT32:
        given = float32s(a[INPUT] + 4 * first)
        for j in range(count):
            x[j] = given[j]
    else:
        short = uint16s(a[INPUT] + 2 * first)
        if a[DTYPE] == BFLOAT16:
            for j in range(count):
                x[j] = float_of(U((short[j]) << 16))
        else:
            for j in range(count):
                x[j] = from_half(U(short[j]))


@stage
def from_half(bits):
    """A float16 number as float32, exactly."""
    magnitude = U((bits & 0x7FFF) << 13)
    if magnitude >= (0x1F << 23):  # infinity or NaN
        return float_of(U((U(bits & 0x8000) << 16) | (0x7F800000 | magnitude)))
    value = float_of(magnitude) * F(2.0**112)
    return -value if bits & 0x8000 else value


@stage
def write(a, first, count, y):
    """The block's output in the dtype of the input, rounded to nearest even."""
    if a[DTYPE] == FLOAT32:
        out = float32s(a[OUTPUT] + 4 * first)
        for j in range(count):
            out[j] = y[j]
        return
    short = uint16s(a[OUTPUT] + 2 * first)
    if a[DTYPE] == BFLOAT16:
        for j in range(count):
            short[j] = np.uint16(to_bfloat(U(bits_of(y[j]))) if y[j] == y[j] else 0x7FC0)
    else:
        for j in range(count):
            short[j] = np.uint16(to_half(U(bits_of(y[j]))))


@stage
def to_bfloat(bits):
    """The bfloat16 number nearest to a float32 number that is no NaN, of two the even one."""
    return U(U((bits + 0x7FFF) + ((bits >> 16) & 1)) >> 16)


@stage
def to_half(bits):
    """The float16 number nearest to a float32 number, of two the even one."""
    magnitude, sign = U(bits & 0x7FFFFFFF), U((bits >> 16) & 0x8000)
    if magnitude > 0x7F800000:
        return U(sign | 0x7E00)
    if magnitude >= 0x47800000:
        return U(sign | 0x7C00)
    if magnitude < 0x38800000:  # a subnormal number: the addition shifts and rounds
        return U(sign | U(U(bits_of(float_of(magnitude) + HALF)) - 0x3F000000))
    odd = U((magnitude >> 13) & 1)
    return U(sign | U(U((magnitude - (112 << 23)) + (0xFFF + odd)) >> 13))


@stage
def of_order(a, ordered):
    """The number of 16 bits that has this place in the order of such numbers, as float32."""
    bits = U(np.uint16(ordered ^ np.int16(np.int16(ordered >> 15) & np.int16(0x7FFF))))
    return float_of(U(bits << 16)) if a[DTYPE] == BFLOAT16 else from_half(bits)


@stage
def in_order(ordered):
    """The float that update_ends has as this integer."""
    return float_of(I32(ordered ^ ((ordered >> 31) & MAGNITUDE)))


@stage
def power_of_two(exponent):
    """2^exponent; 0 below the normal range, infinity above."""
    return float_of(I32(min(max(I32(exponent + 127), 0), 255) << 23))


@stage
def shifted(y, exponent):
    """y * 2^exponent, as scaling.scale_by_power_of_two."""
    half = I32(exponent >> 1)
    return y * power_of_two(half) * power_of_two(I32(exponent - half))


@stage
def is_normal(bits):
    """1 for a float that is no zero, denormal, infinity or NaN, else 0."""
    return I32(I32(I32(bits + I32(1 << 23)) & I32(0x7F000000)) != 0)
