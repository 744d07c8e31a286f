"""A neuron block by block in the cache: each stage is a loop over a block, so one compilation serves all of them."""

from __future__ import annotations

import numpy as np
from numba import carray

from mbe_plugin.kernels.numba_cpu.compiled.banks import (
    CELLS,
    at_place,
    breakpoints_of,
    cells_of,
    find_banks,
    look_up,
    magnitudes,
    mirror,
    rows_of_bases,
    rows_of_steps,
)
from mbe_plugin.kernels.numba_cpu.compiled.counting import (
    BITS,
    UNTIL_SPREAD,
    ask,
    count_digits,
    count_first_spike,
    counts_of,
    digits_of_codes,
    digits_of_identity,
    note_events,
    room_for_digits,
    slots_of,
    spread,
    take,
)
from mbe_plugin.kernels.numba_cpu.compiled.decoding import (
    add,
    decode_closed,
    decode_first_spike,
    decode_steps,
    encode_identity,
    find_normal,
)
from mbe_plugin.kernels.numba_cpu.compiled.machine import float32s, kernel
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    BLOCK,
    I32,
    ZERO,
    U,
    clear,
    floats,
    integers,
    longs,
    read,
    write,
)
from mbe_plugin.kernels.numba_cpu.compiled.ranges import (
    clear_ends,
    count_range,
    limits_of,
    note_range,
    update_ends,
    write_ends,
)
from mbe_plugin.kernels.numba_cpu.compiled.scales import restore, shared_exponents, shift, split
from mbe_plugin.kernels.numba_cpu.compiled.scores import below, only, row_shifts
from mbe_plugin.kernels.numba_cpu.compiled.words import (
    BANKS,
    BASES,
    CALIBRATED,
    CHANNEL,
    CLOSED,
    ENDS,
    FIRST_SPIKE,
    FORM,
    IDENTITY,
    KIND,
    MIRRORED,
    NONE,
    OCTAVES,
    OWN,
    SCORES,
    SHARED,
    SPIKES,
    STEPS,
    TIME_STEPS,
    WORDS,
)


@kernel()
def by_blocks(arguments, first, last, thread):
    """Elements first .. last - 1 of a call of any neuron; of what kind it is, each stage asks once per block."""
    a = carray(arguments, (WORDS,))
    x, y = floats(BLOCK), floats(BLOCK)
    reduced = x if a[KIND] == NONE else floats(BLOCK)
    compared = floats(BLOCK) if a[OCTAVES] or a[MIRRORED] else reduced
    codes, membrane = floats(BLOCK), floats(BLOCK)
    exponent, exponents, bank = integers(BLOCK, 0), integers(BLOCK, 0), integers(BLOCK, 0)
    active, asked, taken = integers(BLOCK, 1), integers(BLOCK, 1), integers(BLOCK, 1)
    form, shared, scores, recorded = a[FORM], a[SHARED], a[SCORES], a[SPIKES] != 0
    slots = slots_of(a)
    before, limits = integers(CELLS + 1, 0), floats(breakpoints_of(a).size + 1)
    per_bank = I32(a[BASES] // a[BANKS])
    row = bank if per_bank == 1 and form == CLOSED else integers(BLOCK, 0)
    columns, at_step = floats(4 * BLOCK).reshape(4, BLOCK), floats(4 * BLOCK).reshape(4, BLOCK)
    rows = floats(4 * a[BASES]).reshape(a[BASES], 4)
    steps = a[TIME_STEPS] if form == STEPS else 0
    of_steps = floats(4 * steps * a[BASES]).reshape(steps, a[BASES], 4)
    counts = counts_of(a, slots, thread)
    by_digits = slots > 1 and form in (IDENTITY, CLOSED)
    digits, groups = np.zeros(BLOCK, U), (a[TIME_STEPS] + BITS - 1) // BITS
    sums, found = room_for_digits(a[BASES] * groups if by_digits else 0)
    ends, ends_of_block = integers(2, 0), integers(2, 0)
    clear_ends(ends)
    ranged, limits_of_range, beyond_range = a[CALIBRATED] != 0, floats(4), longs(3)
    if ranged:
        limits_of(a, limits_of_range)
    cells, per_unit, most = 0, ZERO, 0
    if form >= CLOSED:
        cells, per_unit, most = cells_of(a, last - first, before, limits)
        rows_of_bases(a, rows)
    if form == STEPS:
        rows_of_steps(a, of_steps)
    start, until_spread, full, shifts = first, UNTIL_SPREAD, 0, floats(BLOCK + 1)
    while start < last:
        count = min(last - start, BLOCK)
        read(a, start, count, x)
        if scores:
            row_shifts(a, first, start, count, shifts)
            below(count, x, shifts, asked)
        else:
            ask(a, start, count, asked)
        if ranged:
            clear_ends(ends_of_block)
            update_ends(x, count, ends_of_block)
            count_range(count, x, asked, ends_of_block, limits_of_range, beyond_range)
        elif shared != CHANNEL:
            update_ends(x, count, ends)
        if shared != OWN:
            shared_exponents(a, start, count, exponents)
            shift(count, x, exponents, -1)
        if shared == CHANNEL:  # whose range is that of the scaled input
            update_ends(x, count, ends)
        if form != IDENTITY and a[KIND] != NONE:
            split(a, count, x, reduced, exponent, active)
        elif form == IDENTITY and slots:
            find_normal(count, x, active)
        if slots:
            take(a, count, active, asked, taken, counts[slots - 1 :])
        if form == IDENTITY:
            encode_identity(a, count, x, y)
            if by_digits:
                digits_of_identity(a, count, x, taken, digits, row)
                full = count_digits(count, digits, row, groups, sums, found, full)
        elif form == FIRST_SPIKE:
            decode_first_spike(a, count, reduced, y)
            if slots > 1:
                count_first_spike(a, count, reduced, taken, counts)
        else:
            if a[BANKS] > 1:
                if a[OCTAVES] or a[MIRRORED]:
                    magnitudes(a, count, reduced, compared)
                find_banks(count, compared, cells, per_unit, most, before, limits, bank)
                if a[MIRRORED]:
                    mirror(count, reduced, I32(limits.size), bank)
            clear(count, y)
            for place in range(per_bank):
                if per_bank > 1 or form == STEPS:
                    at_place(count, bank, per_bank, I32(place), row)
                look_up(count, rows.ctypes.data, row, columns)
                if form == STEPS:
                    decode_steps(
                        a, count, reduced, row, columns, of_steps, at_step, y, membrane, codes, taken, counts
                    )
                else:
                    decode_closed(a, count, reduced, columns, y, codes)
                    if by_digits:
                        digits_of_codes(count, codes, taken, digits)
                        full = count_digits(count, digits, row, groups, sums, found, full)
            add(count, columns[3], y)
        if form != IDENTITY:
            restore(a, count, y, x, exponent, active)
        if shared != OWN:
            shift(count, y, exponents, 1)
        if scores:
            only(count, y, x, asked)
        write(a, start, count, y)
        start += count
        until_spread -= count
        if by_digits and (until_spread < BLOCK or start >= last):
            spread(a, groups, integers(0, 0), sums, found, counts)
            until_spread, full = UNTIL_SPREAD, 0
    if ranged:
        note_range(a, beyond_range)
        if recorded:
            note_events(a, counts, beyond_range[0])
    else:
        write_ends(ends, carray(float32s(a[ENDS] + 8 * thread), (2,)))
