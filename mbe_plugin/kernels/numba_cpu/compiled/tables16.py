"""Inputs of 16 bits, of which each is looked up in what the neuron makes of all 65,536 numbers."""

from __future__ import annotations

from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    allocate,
    clear,
    float32s,
    free,
    int32s,
    int64s,
    kernel,
    uint16s,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import BLOCK, I64, read
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
from mbe_plugin.kernels.numba_cpu.compiled.words import CALIBRATED, ENDS, INPUT, OUTPUT, TABLE


@kernel()
def by_table(a, first, last, thread):
    """The same for inputs of 16 bits, all of them asked about, by what a kernel has made of every one, TABLE [2^16]."""
    table, ranged, room = uint16s(a[TABLE]), a[CALIBRATED] != 0, allocate(2 * 4 * BLOCK + 56)
    beyond_range, limits = int64s(room), float32s(room + 24)
    ends, ends_of_block = int32s(room + 40), int32s(room + 48)
    x, asked = float32s(room + 56), int32s(room + 56 + 4 * BLOCK)
    for j in range(BLOCK):
        asked[j] = 1
    clear(beyond_range, 3)
    clear_ends(ends)
    if ranged:
        limits_of(a, limits)
    start = first
    while start < last:
        count = min(last - start, BLOCK)
        given = uint16s(a[INPUT] + 2 * start)
        out = uint16s(a[OUTPUT] + 2 * start)
        for j in range(count):
            out[j] = table[given[j]]
        ends_of_16_bits(a, count, given, x)
        if ranged:
            clear_ends(ends_of_block)
            update_ends(x, I64(2), ends_of_block)
            if not is_inside(ends_of_block, limits):
                read(a, start, count, x)
            count_range(count, x, asked, ends_of_block, limits, beyond_range)
        else:
            update_ends(x, I64(2), ends)
        start += count
    if ranged:
        note_range(a, beyond_range)
    else:
        write_ends(ends, float32s(a[ENDS] + 8 * thread))
    free(room)
