"""The codes: a closed form, steps, the identity, first spikes; each adds or writes what a block decodes to."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.banks import look_up
from mbe_plugin.kernels.numba_cpu.compiled.machine import bits_of, float_of, stage
from mbe_plugin.kernels.numba_cpu.compiled.numbers import I32, ONE, ZERO, is_normal, power_of_two
from mbe_plugin.kernels.numba_cpu.compiled.words import BASES, KEPT_BITS, TIME_STEPS


@stage
def decode_closed(a, count, reduced, columns, y, codes):
    """closed.decode of the bases that were looked up, added to y; codes: their T spikes as a whole number's digits."""
    o, g, w = columns[0], columns[1], columns[2]
    numbers, share = power_of_two(I32(a[TIME_STEPS])), power_of_two(I32(-a[TIME_STEPS]))
    top = numbers - ONE
    for j in range(count):
        code = np.floor((reduced[j] - o[j]) * g[j] * numbers)
        code = ZERO if code < ZERO else code
        code = top if code > top else code
        codes[j] = code
        y[j] += code * share * w[j]


@stage
def decode_steps(a, count, reduced, row, columns, of_steps, at_step, y, membrane, output, taken, counts):
    """steps.decode of the bases that were looked up, added to y; spikes are counted if counts [T, N] has room."""
    steps, bases = a[TIME_STEPS], a[BASES]
    o, g, w = columns[0], columns[1], columns[2]
    th, r, d = at_step[0], at_step[1], at_step[2]
    for j in range(count):
        membrane[j] = g[j] * (reduced[j] - o[j])
        output[j] = ZERO
    for t in range(steps):
        look_up(count, of_steps.ctypes.data + 16 * t * bases, row, at_step)
        if counts.size > 1:
            for j in range(count):
                counts[t * bases + row[j]] += I32(membrane[j] - th[j] >= ZERO) & taken[j]
        for j in range(count):
            fires = membrane[j] - th[j] >= ZERO
            output[j] += d[j] if fires else ZERO
            membrane[j] -= r[j] if fires else ZERO
    for j in range(count):
        y[j] += w[j] * output[j]


@stage
def add(count, x, y):
    """x added to y."""
    for j in range(count):
        y[j] += x[j]


@stage
def middle(bits, kept):
    """closed.middle_of_segment of a float's bits."""
    dropped = I32(23 - kept)
    return float_of(I32(I32(bits & I32(I32(-1) << dropped)) | I32(I32(1) << I32(dropped - 1))))


@stage
def encode_identity(a, count, x, y):
    """closed.encode_identity."""
    kept = I32(a[KEPT_BITS])
    for j in range(count):
        bits = bits_of(x[j])
        field = I32(bits & I32(0x7F800000))
        coded = bits_of(middle(bits, kept))
        coded = (
            I32(bits & I32(-0x80000000)) if field == 0 else coded
        )  # no product, whose result would be denormal
        y[j] = float_of(bits if field == I32(0x7F800000) else coded)


@stage
def find_normal(count, x, active):
    """Which inputs an identity sends: no zero, denormal, infinity or NaN."""
    for j in range(count):
        active[j] = is_normal(bits_of(x[j]))


@stage
def decode_first_spike(a, count, reduced, y):
    """first_spike.decode."""
    kept, least = I32(a[KEPT_BITS]), power_of_two(I32(-a[TIME_STEPS]))
    for j in range(count):
        y[j] = middle(bits_of(reduced[j]), kept) if abs(reduced[j]) >= least else ZERO
