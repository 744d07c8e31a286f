"""The codes: a closed form, steps, the identity, first spikes; each adds or writes what a block decodes to."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.banks import look_up
from mbe_plugin.kernels.numba_cpu.compiled.machine import address_of, bits_of, float32s, float_of, stage
from mbe_plugin.kernels.numba_cpu.compiled.numbers import BLOCK, I32, ONE, ZERO, is_normal, power_of_two
from mbe_plugin.kernels.numba_cpu.compiled.words import BASES, KEPT_BITS, TIME_STEPS


@stage
def decode_closed(a, count, reduced, columns, y, codes):
    """closed.decode of the bases that were looked up, added to y; codes: their T spikes as a whole number's digits."""
    numbers, share = power_of_two(I32(a[TIME_STEPS])), power_of_two(I32(-a[TIME_STEPS]))
    top = numbers - ONE
    for j in range(count):
        code = np.floor((reduced[j] - columns[j]) * columns[BLOCK + j] * numbers)
        code = ZERO if code < ZERO else code
        code = top if code > top else code
        codes[j] = code
        y[j] += code * share * columns[2 * BLOCK + j]


@stage
def decode_steps(
    a, count, reduced, row, columns, of_steps, at_step, y, membrane, output, taken, counted, counts
):
    """steps.decode of the bases that were looked up, added to y; spikes are counted, in counts [T, N], if asked."""
    steps, bases = a[TIME_STEPS], a[BASES]
    for j in range(count):
        membrane[j] = columns[BLOCK + j] * (reduced[j] - columns[j])
        output[j] = ZERO
    for t in range(steps):
        look_up(count, float32s(address_of(of_steps) + 16 * t * bases), row, at_step)
        if counted:
            for j in range(count):
                counts[t * bases + row[j]] += I32(membrane[j] - at_step[j] >= ZERO) & taken[j]
        for j in range(count):
            fires = membrane[j] - at_step[j] >= ZERO
            output[j] += at_step[2 * BLOCK + j] if fires else ZERO
            membrane[j] -= at_step[BLOCK + j] if fires else ZERO
    for j in range(count):
        y[j] += columns[2 * BLOCK + j] * output[j]


@stage
def add(count, columns, y):
    """The banks' constants added to y."""
    for j in range(count):
        y[j] += columns[3 * BLOCK + j]


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
