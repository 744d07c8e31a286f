"""Floats by their bits: reading and writing three dtypes as float32, powers of two, the order of floats as integers.

PTX, wherever a function has it: in the GPU's own instructions, which Triton's interpreter does not know.
"""

from __future__ import annotations

import triton
import triton.language as tl

MAGNITUDE = tl.constexpr(0x7FFFFFFF)
MANTISSA = tl.constexpr(0x7FFFFF)
FIELD = tl.constexpr(0xFF)
LEAST_INTEGER = tl.constexpr(-(2**31))
LARGEST_INTEGER = tl.constexpr(2**31 - 1)
SMALLEST_NORMAL = tl.constexpr(2.0**-126)
# added to a number, they leave it no fraction: to one from 0 to 2^23, and to one within 2^22 of 0
POSITIVE = tl.constexpr(8388608.0)
SIGNED = tl.constexpr(12582912.0)


@triton.jit
def bits_of(x):
    """The 32 bits of a float."""
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    """The float of 32 bits."""
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def read(pointer, inside, DTYPE: tl.constexpr):
    """Numbers as float32, exactly; 0 where not inside. bfloat16 comes as int16."""
    if DTYPE == "bfloat16":
        return float_of(tl.load(pointer, mask=inside, other=0).to(tl.int32) << 16)
    else:
        return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def write(pointer, y, inside, DTYPE: tl.constexpr, PTX: tl.constexpr):
    """float32 numbers in the output's dtype, rounded to nearest even."""
    if DTYPE == "bfloat16":
        if PTX:
            rounded = y.to(tl.bfloat16).to(tl.int16, bitcast=True)
        else:  # Triton's interpreter would cut the bits off
            bits = bits_of(tl.where(y == y, y, 0.0))
            rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).to(tl.int16)
        tl.store(pointer, tl.where(y == y, rounded, 0x7FC0), mask=inside)
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
def rank(x):
    """Integers in the order of the floats; NaN, of either sign, is the largest, which ``in_order`` has as NaN again."""
    return tl.where(x == x, ordered(x), LARGEST_INTEGER)


@triton.jit
def whole_below(x):
    """floor(x), by additions: Triton's own takes subnormal numbers for 0, and conversions to integers take long."""
    shifter = float_of(
        (bits_of(x) & LEAST_INTEGER) | 0x4B000000
    )  # 2^23 with x's sign: what is added loses its fraction
    nearest = (x + shifter) - shifter
    below = tl.where(nearest > x, nearest - 1.0, nearest)
    small = tl.abs(x) < 8388608.0  # others are whole, infinite or NaN
    return tl.where(small, tl.where(below == 0.0, x * 0.0, below), x)


@triton.jit
def rounded_down(x, SHIFTER: tl.constexpr, PTX: tl.constexpr):
    """x + SHIFTER rounded down, which must lie where floats are whole and no further apart; PTX: see the file."""
    if PTX:
        return tl.inline_asm_elementwise(
            "add.rm.f32 $0, $1, $2;", "=f,f,f", [x, SHIFTER], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        nearest = x + SHIFTER
        return tl.where(nearest - SHIFTER > x, nearest - 1.0, nearest)


@triton.jit
def whole_below_positive(x, PTX: tl.constexpr):
    """floor(x) for 0 <= x < 2^23; NaN stays what it is."""
    return rounded_down(x, POSITIVE, PTX) - POSITIVE


@triton.jit
def at_least(x, limit):
    """The larger of two numbers, NaN where one is."""
    return tl.maximum(x, limit, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def at_most(x, limit):
    """The smaller of two numbers, NaN where one is."""
    return tl.minimum(x, limit, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def integer_of(whole):
    """A whole number within 2^22 of 0 as an integer."""
    return bits_of(whole + SIGNED) - 0x4B400000


@triton.jit
def look_up(table, index, PTX: tl.constexpr):
    """table[index]; PTX: see the file. For tl.load Triton carries what a matrix product left to other threads."""
    if PTX:
        return tl.inline_asm_elementwise(
            "{ .reg .u64 at; mad.wide.u32 at, $2, 4, $1; ld.global.nc.f32 $0, [at]; }",
            "=f,l,r",
            [table.to(tl.int64), index],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return tl.load(table + index)


@triton.jit
def look_up_2(table, index, PTX: tl.constexpr):
    """The two numbers of table [., 2] at index, which lie together; PTX: see the file."""
    if PTX:
        return tl.inline_asm_elementwise(
            "{ .reg .u64 at; mad.wide.u32 at, $3, 8, $2; ld.global.nc.v2.f32 {$0, $1}, [at]; }",
            "=f,=f,l,r",
            [table.to(tl.int64), index],
            dtype=(tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        return tl.load(table + 2 * index), tl.load(table + 2 * index + 1)


@triton.jit
def look_up_4(table, index, PTX: tl.constexpr):
    """The four numbers of table [., 4] at index, as look_up_2."""
    if PTX:
        return tl.inline_asm_elementwise(
            "{ .reg .u64 at; mad.wide.u32 at, $5, 16, $4; ld.global.nc.v4.f32 {$0, $1, $2, $3}, [at]; }",
            "=f,=f,=f,=f,l,r",
            [table.to(tl.int64), index],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32),
            is_pure=True,
            pack=1,
        )
    else:
        at = table + 4 * index
        return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
def block_start(program, BLOCK: tl.constexpr):
    """The first element of a program, in 64 bits."""
    return program.to(tl.int64) * BLOCK
