"""A neuron block by block in the cache: each stage is a loop over a block, so one compilation serves all of them."""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.banks import (
    CELLS,
    at_place,
    cells_of,
    find_banks,
    look_up,
    magnitudes,
    mirror,
    rows_of_bases,
    rows_of_steps,
    segments_of,
)
from mbe_plugin.kernels.numba_cpu.compiled.counting import (
    BITS,
    BYTES_OF_SUMS,
    BYTES_OF_TALLY,
    UNTIL_SPREAD,
    ask,
    count_digits,
    count_first_spike,
    counts_of,
    digits_of_codes,
    digits_of_identity,
    note_events,
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
from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    LINE,
    address_of,
    allocate,
    bytes_at,
    clear,
    float32s,
    free,
    int32s,
    int64s,
    kernel,
    uint32s,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import BLOCK, I32, I64, ZERO, read, write
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
)

ROW_BYTES = 4 * BLOCK
# where in a call's room a block's numbers lie, in bytes; columns and what is looked up at a step have four rows each
(
    AT_X, AT_Y, AT_REDUCED, AT_COMPARED, AT_CODES, AT_MEMBRANE, AT_EXPONENT, AT_EXPONENTS, AT_BANK, AT_ACTIVE, AT_ASKED,
    AT_TAKEN, AT_ROW, AT_DIGITS, AT_SHIFTS, AT_COLUMNS, AT_STEP, AT_REST,
) = (ROW_BYTES * place for place in (*range(16), 19, 23))  # fmt: skip
# behind them single numbers, and the tables
AT_BEYOND, AT_LIMITS, AT_ENDS, AT_ENDS_OF_BLOCK, AT_LATEST, AT_TABLES = (
    AT_REST + past for past in (0, 24, 40, 48, 56, 64)
)


@kernel()
def by_blocks(a, first, last, thread):
    """Elements first .. last - 1 of a call of any neuron; of what kind it is, each stage asks once per block."""
    form, shared, scores, recorded, bases = a[FORM], a[SHARED], a[SCORES], a[SPIKES] != 0, a[BASES]
    slots, segments, steps = slots_of(a), segments_of(a), a[TIME_STEPS] if form == STEPS else 0
    by_digits = slots > 1 and form in (IDENTITY, CLOSED)
    groups = (a[TIME_STEPS] + BITS - 1) // BITS
    counted = bases * groups if by_digits else 0
    at_steps = AT_TABLES + 16 * bases
    at_counts = at_steps + 16 * steps * bases
    at_sums = at_counts + (8 * slots if recorded else 0)
    at_tally = at_sums + BYTES_OF_SUMS * counted
    at_cells = at_tally + BYTES_OF_TALLY * counted
    at_breaks = at_cells + 4 * (CELLS + 1)
    room = allocate(at_breaks + 4 * segments + LINE)
    at = (room + LINE - 1) & -LINE
    x, y = float32s(at + AT_X), float32s(at + AT_Y)
    reduced = x if a[KIND] == NONE else float32s(at + AT_REDUCED)
    compared = float32s(at + AT_COMPARED) if a[OCTAVES] or a[MIRRORED] else reduced
    codes, membrane, shifts = float32s(at + AT_CODES), float32s(at + AT_MEMBRANE), float32s(at + AT_SHIFTS)
    exponent, exponents, bank = int32s(at + AT_EXPONENT), int32s(at + AT_EXPONENTS), int32s(at + AT_BANK)
    active, asked, taken = int32s(at + AT_ACTIVE), int32s(at + AT_ASKED), int32s(at + AT_TAKEN)
    digits, columns, at_step = uint32s(at + AT_DIGITS), float32s(at + AT_COLUMNS), float32s(at + AT_STEP)
    per_bank = I32(bases // a[BANKS])
    row = bank if per_bank == 1 and form == CLOSED else int32s(at + AT_ROW)
    for j in range(BLOCK):
        exponent[j] = exponents[j] = bank[j] = row[j] = 0
        active[j] = asked[j] = taken[j] = 1
    beyond_range, limits_of_range = int64s(at + AT_BEYOND), float32s(at + AT_LIMITS)
    ends, ends_of_block, latest = (
        int32s(at + AT_ENDS),
        int32s(at + AT_ENDS_OF_BLOCK),
        float32s(at + AT_LATEST),
    )
    clear(beyond_range, 3)
    clear_ends(ends)
    rows, rows_at_step = float32s(at + AT_TABLES), float32s(at + at_steps)
    counts = counts_of(a, slots, thread, at + at_counts)
    before, limits = int32s(at + at_cells), float32s(at + at_breaks)
    sums, found = at + at_sums, at + at_tally
    clear(bytes_at(sums), (BYTES_OF_SUMS + BYTES_OF_TALLY) * counted)
    ranged = a[CALIBRATED] != 0
    if ranged:
        limits_of(a, limits_of_range)
    cells, per_unit, most = I64(0), ZERO, I64(0)
    if form >= CLOSED:
        cells, per_unit, most = cells_of(a, last - first, before, limits)
        rows_of_bases(a, rows)
    if form == STEPS:
        rows_of_steps(a, rows_at_step)
    start, until_spread, full = first, I64(UNTIL_SPREAD), I64(0)
    while start < last:
        count = min(last - start, BLOCK)
        read(a, start, count, x)
        if scores:
            row_shifts(a, first, start, count, shifts, latest)
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
            shift(count, x, exponents, I32(-1))
        if shared == CHANNEL:  # whose range is that of the scaled input
            update_ends(x, count, ends)
        if form != IDENTITY and a[KIND] != NONE:
            split(a, count, x, reduced, exponent, active)
        elif form == IDENTITY and slots:
            find_normal(count, x, active)
        if slots:
            take(a, count, active, asked, taken, slots, counts)
        if form == IDENTITY:
            encode_identity(a, count, x, y)
            if by_digits:
                digits_of_identity(a, count, x, taken, digits, row)
                full = count_digits(count, at + AT_DIGITS, address_of(row), bases, groups, sums, found, full)
        elif form == FIRST_SPIKE:
            decode_first_spike(a, count, reduced, y)
            if slots > 1:
                count_first_spike(a, count, reduced, taken, counts)
        else:
            if a[BANKS] > 1:
                if a[OCTAVES] or a[MIRRORED]:
                    magnitudes(a, count, reduced, compared)
                find_banks(count, compared, segments, cells, per_unit, most, before, limits, bank)
                if a[MIRRORED]:
                    mirror(count, reduced, I32(segments), bank)
            clear(y, count)
            for place in range(per_bank):
                if per_bank > 1 or form == STEPS:
                    at_place(count, bank, per_bank, I32(place), row)
                look_up(count, rows, row, columns)
                if form == STEPS:
                    decode_steps(
                        a,
                        count,
                        reduced,
                        row,
                        columns,
                        rows_at_step,
                        at_step,
                        y,
                        membrane,
                        codes,
                        taken,
                        slots > 1,
                        counts,
                    )
                else:
                    decode_closed(a, count, reduced, columns, y, codes)
                    if by_digits:
                        digits_of_codes(count, codes, taken, digits)
                        full = count_digits(
                            count, at + AT_DIGITS, address_of(row), bases, groups, sums, found, full
                        )
            add(count, columns, y)
        if form != IDENTITY:
            restore(a, count, y, x, exponent, active)
        if shared != OWN:
            shift(count, y, exponents, I32(1))
        if scores:
            only(count, y, x, asked)
        write(a, start, count, y)
        start += count
        until_spread -= count
        if by_digits and (until_spread < BLOCK or start >= last):
            spread(a, bases, groups, np.bool_(False), row, sums, found, counts)
            until_spread, full = I64(UNTIL_SPREAD), I64(0)
    if ranged:
        note_range(a, beyond_range)
        if recorded:
            note_events(a, slots, counts, beyond_range[0])
    else:
        write_ends(ends, float32s(a[ENDS] + 8 * thread))
    free(room)
