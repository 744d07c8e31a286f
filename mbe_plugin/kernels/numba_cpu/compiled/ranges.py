"""The range of what comes in: its ends, and what lies outside that for which the neuron was calibrated."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    add_to,
    address_of,
    bits_of,
    float32s,
    float_of,
    stage,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    I32,
    LARGEST,
    LARGEST_BFLOAT16,
    LARGEST_FLOAT16,
    MAGNITUDE,
    NAN,
    U,
    from_half,
    in_order,
    of_order,
    to_bfloat,
    to_half,
)
from mbe_plugin.kernels.numba_cpu.compiled.words import (
    ACCURATE_HIGH,
    ACCURATE_LOW,
    BEYOND,
    BFLOAT16,
    CALIBRATED,
    DTYPE,
    FLOAT32,
    LOST,
    OUTSIDE,
    SEEN,
)


@stage
def update_ends(x, count, ends):
    """ends [2]: the least and the largest float so far, as integers in the order of the floats; NaN is beyond infinity."""
    low, high = ends[0], ends[1]
    for j in range(count):
        bits = bits_of(x[j])
        ordered = I32(bits ^ ((bits >> 31) & MAGNITUDE))
        low, high = min(low, ordered), max(high, ordered)
    ends[0], ends[1] = low, high


@stage
def ends_of_16_bits(a, count, given, x):
    """The least and the largest of numbers of 16 bits, as float32 in x [0] and x [1]; NaN is beyond infinity."""
    low, high = np.int16(0x7FFF), np.int16(-0x8000)
    for j in range(count):
        bits = np.int16(given[j])
        ordered = np.int16(bits ^ np.int16(np.int16(bits >> 15) & np.int16(0x7FFF)))
        low, high = min(low, ordered), max(high, ordered)
    x[0], x[1] = of_order(a, low), of_order(a, high)


@stage
def clear_ends(ends):
    """No float so far."""
    ends[0], ends[1] = 0x7FFFFFFF, -0x80000000


@stage
def as_compared(a, limit):
    """A limit of a range as torch compares it with inputs of their dtype: no larger than those are, and rounded to it."""
    if a[DTYPE] == FLOAT32:
        return min(max(limit, -LARGEST), LARGEST)
    most = LARGEST_BFLOAT16 if a[DTYPE] == BFLOAT16 else LARGEST_FLOAT16
    bits = U(bits_of(min(max(limit, -most), most)))
    return float_of(U(to_bfloat(bits) << 16)) if a[DTYPE] == BFLOAT16 else from_half(to_half(bits))


@stage
def limits_of(a, limits):
    """The calibrated range, and that in which accuracy is kept, which holds it; [4]."""
    given = float32s(a[CALIBRATED])
    low, high = float_of(I32(a[ACCURATE_LOW])), float_of(I32(a[ACCURATE_HIGH]))
    limits[0], limits[1] = as_compared(a, given[0]), as_compared(a, given[1])
    limits[2], limits[3] = min(limits[0], as_compared(a, low)), max(limits[1], as_compared(a, high))


@stage
def is_inside(ends, limits):
    """Whether inputs between these ends are within the calibrated range."""
    return (in_order(ends[0]) >= limits[0]) & (in_order(ends[1]) <= limits[1])


@stage
def count_range(count, x, asked, ends, limits, found):
    """Those asked about, how many leave the calibrated range, and how many are decoded worse; added to found [3]."""
    low, high, least, most = limits[0], limits[1], limits[2], limits[3]
    for j in range(count):
        found[0] += asked[j]
    if is_inside(ends, limits):
        return
    for j in range(count):
        found[1] += I32(not ((x[j] >= low) & (x[j] <= high))) & asked[j]
        found[2] += I32(not ((x[j] >= least) & (x[j] <= most))) & asked[j]


@stage
def note_range(a, found):
    """What count_range found, added to the neuron's counters; the third to LOST, too."""
    add_to(a[SEEN], found[0])
    if found[1]:
        add_to(a[OUTSIDE], found[2])
        add_to(a[BEYOND], found[1] - found[2])
        add_to(address_of(a) + 8 * LOST, found[2])


@stage
def write_ends(ends, out):
    """The ends as floats, both NaN where one is."""
    low, high = in_order(ends[0]), in_order(ends[1])
    either = low != low or high != high
    out[0], out[1] = (NAN, NAN) if either else (low, high)
