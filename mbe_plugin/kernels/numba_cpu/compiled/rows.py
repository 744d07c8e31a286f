"""Kernels over rows of float32, compiled by Numba: what stands around neurons in a normalisation and after an attention.

They call the neurons' kernel at its address, with the words of each neuron, so that its counters and its spikes are
counted as in a call of its own. Every operation is the torch path's own, in its order; sums are torch's, see sums.py.
Numbers lie behind plain pointers: arrays of Numba's would take many times as long to compile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    bytes_at,
    call_kernel,
    float32s,
    float_of,
    int64s,
    kernel,
    stage,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import ONE, ZERO, F
from mbe_plugin.kernels.numba_cpu.compiled.words import INPUT, LOST, OUTPUT, WHERE, WORDS

TOGETHER = 1 << 14  # elements that a neuron's call takes at once: they stay in the cache
SUM_LEVELS, STEP_BITS = 4, 4  # of torch's sums: partial sums of 16, of 16 of those, and so on
ABREAST = 4  # vectors that torch adds side by side
MOST_LANES = 32  # numbers of a vector

NORM_ARGUMENTS = (
    "kernel first second room each input output columns lanes eps centered gain shift sum".split()
)
QUOTIENT_ARGUMENTS = "kernel first second room each input output columns totals".split()
(
    KERNEL, FIRST, SECOND, ROOM, EACH, ROW_INPUT, ROW_OUTPUT, ROW_COLUMNS, LANES, EPS, CENTERED, ROW_GAIN, ROW_SHIFT, SUM,
) = range(len(NORM_ARGUMENTS))  # fmt: skip
TOTALS = 8

_SUM = types.float32(*[types.int64] * 4)


@intrinsic
def call_sum(context: Any, function: Any, row: Any, columns: Any, lanes: Any, room: Any) -> Any:
    """Call row_sum at an address, so that it is compiled once and not into all who need it."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = context.get_value_type(types.int64)
        kind = ir.FunctionType(context.get_value_type(types.float32), [word] * 4)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.float32(*[types.int64] * 5), build


def room_for(columns: int) -> int:
    """How many bytes a thread needs for rows of so many columns."""
    together = max(TOGETHER // columns, 1)
    floats = 2 * together * columns + columns + 3 * together + SUM_LEVELS * ABREAST * MOST_LANES
    return 2 * 8 * WORDS + 4 * floats


@stage
def copy_words(given, own):
    """A thread's own copy of a neuron's words, at an address."""
    for i in range(WORDS):
        int64s(own)[i] = int64s(given)[i]


@stage
def run_neuron(kernel, words, x, y, count, thread):
    """What the neuron with these words decodes of x [count], in y; addresses."""
    int64s(words)[INPUT] = x
    int64s(words)[OUTPUT] = y
    call_kernel(kernel, words, 0, count, thread)


@stage
def note_lost(own, given):
    """Tell the caller's words that inputs were lost; threads that do write the same."""
    if int64s(own)[LOST] != 0:
        int64s(given)[LOST] = 1


@kernel(_SUM)
def row_sum(row, columns, lanes, room):
    """The sum of a row in the order in which torch adds it up; room for SUM_LEVELS * ABREAST * lanes. Addresses."""
    x, partial = float32s(row), float32s(room)
    width = ABREAST * lanes
    groups, vectors = columns // width, columns // lanes
    for k in range(SUM_LEVELS * width):
        partial[k] = ZERO
    done = 0
    while done + (1 << STEP_BITS) <= groups:
        for i in range(done, done + (1 << STEP_BITS)):
            for k in range(width):
                partial[k] += x[i * width + k]
        done += 1 << STEP_BITS
        for level in range(1, SUM_LEVELS):
            for k in range(level * width, level * width + width):
                partial[k] += partial[k - width]
                partial[k - width] = ZERO
            if done & (((1 << STEP_BITS) - 1) << (level * STEP_BITS)):
                break
    for i in range(done * width, groups * width, width):
        for k in range(width):
            partial[k] += x[i + k]
    for level in range(1, SUM_LEVELS):
        for k in range(width):
            partial[k] += partial[level * width + k]
    for i in range(groups * width, vectors * lanes, lanes):
        for k in range(lanes):
            partial[k] += x[i + k]
    for other in range(1, ABREAST):
        for k in range(lanes):
            partial[k] += partial[other * lanes + k]
    total = ZERO
    for k in range(vectors * lanes, columns):
        total += x[k]
    for k in range(lanes):
        total += partial[k]
    return total


@stage
def subtract(row, mean, columns, out):
    """A row less its mean."""
    x, y = float32s(row), float32s(out)
    for j in range(columns):
        y[j] = x[j] - mean


@stage
def square(row, columns, out):
    """A row's squares."""
    x, y = float32s(row), float32s(out)
    for j in range(columns):
        y[j] = x[j] * x[j]


@stage
def write_row(row, inverse, gain, shift, columns, out):
    """A row times its factor, times the gain plus the shift where there are some."""
    x, y = float32s(row), float32s(out)
    for j in range(columns):
        y[j] = x[j] * inverse
    if gain:
        for j in range(columns):
            y[j] *= float32s(gain)[j]
    if shift:
        for j in range(columns):
            y[j] += float32s(shift)[j]


@kernel()
def normalize(a, first, last, thread):
    """Rows first .. last - 1 of a LayerNorm or RMSNorm; NORM_ARGUMENTS says what each number stands for.

    The two neurons are those of the deviation and of 1/sqrt.
    """
    columns, lanes, eps = a[ROW_COLUMNS], a[LANES], float_of(np.int32(a[EPS]))
    most = max(TOGETHER // columns, 1)
    row, of_deviation = 4 * columns, a[ROOM] + thread * a[EACH]
    of_variance = of_deviation + 8 * WORDS
    centered = of_variance + 8 * WORDS
    deviation = centered + row * most
    squares = deviation + row * most
    variance = squares + row
    inverse = variance + 4 * most
    partial = inverse + 4 * most
    copy_words(a[FIRST], of_deviation)
    copy_words(a[SECOND], of_variance)
    for start in range(first, last, most):
        rows, x, y = min(most, last - start), a[ROW_INPUT] + start * row, a[ROW_OUTPUT] + start * row
        if a[CENTERED]:
            for r in range(rows):
                mean = call_sum(a[SUM], x + r * row, columns, lanes, partial) / F(columns)
                subtract(x + r * row, mean, columns, centered + r * row)
            x = centered
        run_neuron(a[KERNEL], of_deviation, x, deviation, rows * columns, thread)
        for r in range(rows):
            square(deviation + r * row, columns, squares)
            float32s(variance)[r] = call_sum(a[SUM], squares, columns, lanes, partial) / F(columns) + eps
        run_neuron(a[KERNEL], of_variance, variance, inverse, rows, thread)
        for r in range(rows):
            write_row(
                deviation + r * row, float32s(inverse)[r], a[ROW_GAIN], a[ROW_SHIFT], columns, y + r * row
            )
    note_lost(of_deviation, a[FIRST])
    note_lost(of_variance, a[SECOND])


@kernel()
def divide(a, first, last, thread):
    """Rows first .. last - 1 times the reciprocals of their totals; QUOTIENT_ARGUMENTS says what each number stands for.

    The second neuron is that of the reciprocal; the first encodes the rows, if there is one. The total 0 gives a row of 0.
    """
    columns = a[ROW_COLUMNS]
    most = max(TOGETHER // columns, 1)
    row, of_rows = 4 * columns, a[ROOM] + thread * a[EACH]
    of_totals = of_rows + 8 * WORDS
    encoded = of_totals + 8 * WORDS
    given = encoded + row * most
    inverse = given + 4 * most
    some = inverse + 4 * most
    copy_words(a[SECOND], of_totals)
    int64s(of_totals)[WHERE] = some
    if a[FIRST]:
        copy_words(a[FIRST], of_rows)
    for start in range(first, last, most):
        rows, x, y = min(most, last - start), a[ROW_INPUT] + start * row, a[ROW_OUTPUT] + start * row
        for r in range(rows):
            total = float32s(a[TOTALS])[start + r]
            bytes_at(some)[r] = total != ZERO
            float32s(given)[r] = total if total != ZERO else ONE
        run_neuron(a[KERNEL], of_totals, given, inverse, rows, thread)
        if a[FIRST]:
            run_neuron(a[KERNEL], of_rows, x, encoded, rows * columns, thread)
            x = encoded
        for r in range(rows):
            factor = float32s(inverse)[r] if bytes_at(some)[r] else ZERO
            write_row(x + r * row, factor, 0, 0, columns, y + r * row)
    if a[FIRST]:
        note_lost(of_rows, a[FIRST])
    note_lost(of_totals, a[SECOND])
