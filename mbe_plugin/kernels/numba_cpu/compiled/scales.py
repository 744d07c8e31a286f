"""Range reduction, and scales that elements share."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.machine import bits_of, float_of, int32s, stage
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    FIELD,
    I32,
    INFINITY,
    LARGEST,
    NAN,
    ONE,
    ZERO,
    F,
    is_normal,
    shifted,
)
from mbe_plugin.kernels.numba_cpu.compiled.words import (
    ALONG,
    CHANNEL,
    CLIP,
    EXPONENT,
    EXPONENTS,
    FRACTION,
    INNER,
    INVERSE,
    INVERSE_ROOT,
    KIND,
    LINEAR,
    NONE,
    OCTAVE,
    ONE_SIDED,
    POWER,
    ROOT,
    SHARED,
    TENSOR,
)

SQRT2, INVERSE_SQRT2 = F(2.0**0.5), F(2.0**-0.5)
LARGEST_INSIDE = F(1 - 2.0**-24)


@stage
def shared_exponents(a, first, count, exponents):
    """The exponent of each element's shared scale; the elements are [., along, inner]."""
    shared, inner, along = a[SHARED], a[INNER], a[ALONG]
    given = int32s(a[EXPONENTS])
    place, channel, row = first % inner, first // inner % along, first // inner // along
    for j in range(count):
        exponents[j] = given[0 if shared == TENSOR else channel if shared == CHANNEL else row * inner + place]
        place += 1
        if place == inner:
            place, channel = 0, channel + 1
            if channel == along:
                channel, row = 0, row + 1


@stage
def shift(count, x, exponents, sign):
    """x * 2^(sign * exponents), in place."""
    for j in range(count):
        x[j] = shifted(x[j], I32(sign * exponents[j]))


@stage
def split(a, count, x, reduced, exponent, active):
    """Reduction.split, but for 'none': the reduced input, the exponent and whether anything is sent (1 or 0)."""
    kind, power = a[KIND], a[POWER]
    if kind == CLIP:
        for j in range(count):
            v = LARGEST_INSIDE if x[j] > LARGEST_INSIDE else x[j]
            reduced[j] = -LARGEST_INSIDE if v < -LARGEST_INSIDE else v
    elif kind == FRACTION:
        for j in range(count):
            floor = np.floor(x[j])
            sends = (floor >= F(-126)) & (x[j] < INFINITY)
            least = floor if floor < F(254) else F(254)
            exponent[j] = I32(least if sends else ZERO)
            reduced[j] = x[j] - floor if sends else ZERO
            active[j] = I32(sends)
    else:
        even = kind == EXPONENT and power >= ROOT
        least = ZERO if power >= ROOT or a[ONE_SIDED] else -LARGEST  # of what sends anything, but for 0
        for j in range(count):
            bits = bits_of(x[j])
            field = I32(I32(bits >> 23) & I32(FIELD))
            e = I32(field - 126)
            odd = I32(e & 1) if even else I32(0)
            exponent[j] = I32(e - odd)
            reduced[j] = float_of(I32(I32(bits & I32(~(FIELD << 23))) | I32(I32(126 + odd) << 23)))
            active[j] = is_normal(bits) & I32(x[j] >= least)


@stage
def restore(a, count, y, x, exponent, active):
    """Reduction.restore, in place; a one-sided neuron reads NaN for negative inputs."""
    kind, power = a[KIND], a[POWER]
    if kind in (NONE, CLIP):
        for j in range(count):
            y[j] = y[j] + x[j] * ZERO
        return
    if kind == FRACTION:
        for j in range(count):
            y[j] = shifted(y[j], exponent[j])
    else:
        scale(kind, power, count, y, exponent)
    senders = 0
    for j in range(count):
        senders += active[j]
    if senders < count:
        for j in range(count):
            if active[j] == 0:
                y[j] = limit_of(kind, power, x[j])
    if a[ONE_SIDED]:
        for j in range(count):
            y[j] = NAN if x[j] < ZERO else y[j]


@stage
def scale(kind, power, count, y, exponent):
    """Reduction.scale, in place."""
    if kind == OCTAVE:
        factor = SQRT2 if power == ROOT else INVERSE_SQRT2
        for j in range(count):
            y[j] = y[j] * factor if I32(exponent[j] & 1) == 1 else y[j]
    root, inverse = I32(power >= ROOT), power in (INVERSE, INVERSE_ROOT)
    for j in range(count):
        e = I32(exponent[j] >> root)
        y[j] = shifted(y[j], I32(-e) if inverse else e)


@stage
def limit_of(kind, power, x):
    """What an element reads that sends nothing."""
    if kind == FRACTION:
        return ZERO if x < ZERO else x
    if power == LINEAR:
        return x * ZERO if abs(x) < INFINITY else x
    if power == INVERSE:
        return ONE / x
    root = np.sqrt(x)
    return root if power == ROOT else ONE / root
