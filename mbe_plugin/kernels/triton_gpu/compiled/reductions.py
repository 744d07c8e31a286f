"""Range reduction and what undoes it: scaling.Reduction, element by element."""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.numbers import (
    FIELD,
    bits_of,
    float_of,
    integer_of,
    shifted,
    whole_below,
)

LARGEST_INSIDE = tl.constexpr(1 - 2.0**-24)
SQRT2 = tl.constexpr(2.0**0.5)
INVERSE_SQRT2 = tl.constexpr(2.0**-0.5)


@triton.jit
def split(x, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr):
    """Reduction.split: the reduced input, the exponent and whether anything is sent."""
    active = tl.zeros_like(x) == 0.0
    exponent = tl.zeros_like(x).to(tl.int32)
    reduced = x
    if KIND == "clip":
        below = tl.where(x > LARGEST_INSIDE, LARGEST_INSIDE, x)
        reduced = tl.where(below < -LARGEST_INSIDE, -LARGEST_INSIDE, below)
    elif KIND == "fraction":
        floor = whole_below(x)
        active = (floor >= -126.0) & (x < float("inf"))
        whole = tl.where(active, floor, 0.0)
        exponent = integer_of(tl.where(whole > 254.0, 254.0, whole))
        reduced = tl.where(active, x - floor, 0.0)
    elif KIND != "none":
        bits = bits_of(x)
        field = (bits >> 23) & FIELD
        exponent = field - 126
        active = (field != 0) & (field != FIELD)
        if ONE_SIDED or POWER == 0.5 or POWER == -0.5:
            active = active & (x > 0.0)
        if KIND == "exponent" and (POWER == 0.5 or POWER == -0.5):
            odd = exponent & 1
            exponent = exponent - odd
            reduced = float_of((bits & ~(0xFF << 23)) | ((odd + 126) << 23))
        else:
            reduced = float_of((bits & ~(0xFF << 23)) | (126 << 23))
    return reduced, exponent, active


@triton.jit
def restore(y, x, exponent, active, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr):
    """Reduction.restore; a one-sided neuron reads NaN for negative inputs."""
    if KIND == "none" or KIND == "clip":
        return y + x * 0.0  # an input that is not finite must not come out finite
    elif KIND == "fraction":
        return tl.where(active, shifted(y, exponent), tl.where(x < 0.0, 0.0, x))
    else:
        out = tl.where(active, scale(y, exponent, KIND, POWER), limit_of(x, POWER))
        if ONE_SIDED:
            out = tl.where(x < 0.0, float("nan"), out)
        return out


@triton.jit
def scale(y, exponent, KIND: tl.constexpr, POWER: tl.constexpr):
    """Reduction.scale."""
    if KIND == "octave":
        factor = y * (SQRT2 if POWER == 0.5 else INVERSE_SQRT2)
        y = tl.where((exponent & 1) == 1, factor, y)
    if POWER == 0.5 or POWER == -0.5:
        exponent = exponent >> 1
    return shifted(y, exponent if POWER > 0 else -exponent)


@triton.jit
def limit_of(x, POWER: tl.constexpr):
    """What an element reads that sends nothing: correctly rounded, as on the CPU."""
    one = tl.zeros_like(x) + 1.0
    if POWER == 1.0:
        return tl.where(tl.abs(x) < float("inf"), x * 0.0, x)
    elif POWER == -1.0:
        return tl.div_rn(one, x)
    elif POWER == 0.5:
        return tl.sqrt_rn(x)
    else:
        return tl.div_rn(one, tl.sqrt_rn(x))
