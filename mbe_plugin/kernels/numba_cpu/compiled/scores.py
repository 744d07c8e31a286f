"""A softmax's scores below their row's largest."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.machine import bits_of, float32s, stage
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    I32,
    INFINITY,
    LARGEST,
    MAGNITUDE,
    NAN,
    ZERO,
    F,
    in_order,
)
from mbe_plugin.kernels.numba_cpu.compiled.words import INPUT, SCORES

LOG2_E, DEEPEST = F(1.4426950408889634), F(-125.0)  # operators.softmax's


@stage
def row_shift(a, first):
    """The whole number at or above a row's largest score in units of log 2, NaN where one is; operators.softmax's."""
    row = float32s(a[INPUT] + 4 * first)
    largest, magnitude = I32(-0x80000000), I32(0)
    for j in range(a[SCORES]):
        bits = bits_of(row[j])
        magnitude = max(magnitude, I32(bits & MAGNITUDE))
        largest = max(largest, I32(bits ^ ((bits >> 31) & MAGNITUDE)))
    return NAN if magnitude > 0x7F800000 else np.ceil(in_log2(in_order(largest)))


@stage
def row_shifts(a, first, start, count, shifts, kept):
    """row_shift of each element's row, for a block that begins at ``start``; kept [1]: the last one's."""
    latest, place, stop = kept[0], start, start + count
    while place < stop:
        past = (place - first) % a[SCORES]
        if past == 0:
            latest = row_shift(a, place)
        end = min(place - past + a[SCORES], stop)
        for j in range(place - start, end - start):
            shifts[j] = latest
        place = end
    kept[0] = latest


@stage
def in_log2(score):
    """A score in units of log 2; a mask that is finite stays finite."""
    power = score * LOG2_E
    return -LARGEST if power < -LARGEST else power


@stage
def below(count, x, shifts, asked):
    """The scores in units of log 2 below their rows' shifts, in place, 0 for what is not sent; asked: what is."""
    for j in range(count):
        z = in_log2(x[j]) - shifts[j]
        sent = (z > DEEPEST) & (x[j] != -INFINITY)
        asked[j] = I32(sent)
        x[j] = z if sent | (z != z) else ZERO


@stage
def only(count, y, x, asked):
    """0 for what is not sent, in place; NaN stays."""
    for j in range(count):
        y[j] = y[j] if (asked[j] != 0) | (x[j] != x[j]) else ZERO
