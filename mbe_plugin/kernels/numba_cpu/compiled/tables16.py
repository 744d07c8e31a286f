"""Inputs of 16 bits, of which each is looked up in what the neuron makes of all 65,536 numbers."""

from __future__ import annotations

from numba import carray

from mbe_plugin.kernels.numba_cpu.compiled.machine import float32s, kernel, uint16s
from mbe_plugin.kernels.numba_cpu.compiled.numbers import BLOCK, floats, integers, longs, read
from mbe_plugin.kernels.numba_cpu.compiled.ranges import (
    clear_ends,
    count_range,
    ends_of_16_bits,
    is_inside,
    limits_of,
    note_range,
    update_ends,
    write_ends,
)
from mbe_plugin.kernels.numba_cpu.compiled.words import CALIBRATED, ENDS, INPUT, OUTPUT, TABLE, WORDS


@kernel()
def by_table(arguments, first, last, thread):
    """The same for inputs of 16 bits, all of them asked about, by what a kernel has made of every one, TABLE [2^16]."""
    a = carray(arguments, (WORDS,))
    table = carray(uint16s(a[TABLE]), (1 << 16,))
    x, asked, limits, beyond_range = floats(BLOCK), integers(BLOCK, 1), floats(4), longs(3)
    ends, ends_of_block, ranged = integers(2, 0), integers(2, 0), a[CALIBRATED] != 0
    clear_ends(ends)
    if ranged:
        limits_of(a, limits)
    start = first
    while start < last:
        count = min(last - start, BLOCK)
        given = carray(uint16s(a[INPUT] + 2 * start), (BLOCK,))
        out = carray(uint16s(a[OUTPUT] + 2 * start), (BLOCK,))
        for j in range(count):
            out[j] = table[given[j]]
        ends_of_16_bits(a, count, given, x)
        if ranged:
            clear_ends(ends_of_block)
            update_ends(x, 2, ends_of_block)
            if not is_inside(ends_of_block, limits):
                read(a, start, count, x)
            count_range(count, x, asked, ends_of_block, limits, beyond_range)
        else:
            update_ends(x, 2, ends)
        start += count
    if ranged:
        note_range(a, beyond_range)
    else:
        write_ends(ends, carray(float32s(a[ENDS] + 8 * thread), (2,)))
