"""A neuron's call on a processor with AVX-512, by the loops of ``lane_loops`` where there is one for it.

Their operations are those of ``blocks``, but for powers of two, which commute with rounding as long as numbers are normal:
``fill_table`` says whether a neuron's are.
"""

from __future__ import annotations

import numpy as np

from mbe_plugin.kernels.numba_cpu.compiled.counting import (
    APART,
    BITS,
    BYTES_OF_SUMS,
    BYTES_OF_TALLY,
    UNTIL_SPREAD,
    count_digits,
    counts_of,
    note_events,
    slots_of,
    spread,
)
from mbe_plugin.kernels.numba_cpu.compiled.lane_loops import (
    ASKED,
    COLUMNS,
    DIGITS,
    DROPPED,
    HIGH,
    KEPT,
    LEAST,
    LEVEL_STEPS,
    LEVELS,
    LIMITS,
    LOW,
    MIDDLE,
    MOST,
    MOST_BANKS,
    NANS,
    SEGMENTS,
    SHIFT,
    STEPS_SENT,
    TABLE_SIZE,
    TOP,
    largest_of,
    run_as_it_is,
    run_identity,
    run_scores,
)
from mbe_plugin.kernels.numba_cpu.compiled.lanes import WIDTH
from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    LINE,
    address_of,
    allocate,
    bytes_at,
    call_kernel,
    clear,
    float32s,
    free,
    int32s,
    int64s,
    kernel,
    stage,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    BLOCK,
    I32,
    I64,
    INFINITY,
    LARGEST,
    NAN,
    ONE,
    ZERO,
    F,
    power_of_two,
)
from mbe_plugin.kernels.numba_cpu.compiled.ranges import (
    clear_ends,
    limits_of,
    note_range,
    update_ends,
    write_ends,
)
from mbe_plugin.kernels.numba_cpu.compiled.scores import in_log2
from mbe_plugin.kernels.numba_cpu.compiled.words import (
    BANKS,
    BASES,
    BIAS,
    BLOCKS,
    BREAKPOINTS,
    CALIBRATED,
    CLOSED,
    DTYPE,
    ENDS,
    FLOAT32,
    FORM,
    FRACTION,
    GAIN,
    IDENTITY,
    INPUT,
    KEPT_BITS,
    KIND,
    MIRRORED,
    NONE,
    OCTAVES,
    OFFSET,
    OUTPUT,
    OWN,
    SCORES,
    SHARED,
    SLOTS,
    SPIKES,
    TIME_STEPS,
    WEIGHT,
    WHERE,
)

RUN = APART * BLOCK  # elements, whose digits the bytes can count
# of a table's numbers, so that powers of two commute with rounding; the second where what is decoded is scaled once more
LARGEST_NUMBER, SMALLEST, SMALLEST_SCALED = F(2.0**100), F(2.0**-126), F(2.0**-39)
# where in a call's room its numbers lie, in bytes
AT_TABLE = 0
AT_ENDS = 4 * (TABLE_SIZE + -TABLE_SIZE % WIDTH)
AT_SOME = AT_ENDS + 2 * 4 * WIDTH
AT_DIGITS = AT_SOME + 2 * 4 * WIDTH
AT_ROWS = AT_DIGITS + 4 * (RUN + WIDTH)
AT_ORDER = AT_ROWS + 4 * (RUN + WIDTH)
AT_FOUND = AT_ORDER + 4 * MOST_BANKS
AT_SENT = AT_FOUND + 8 * (NANS + 1)
AT_ENDS_OF_ALL = AT_SENT + 8
AT_COUNTS = AT_ENDS_OF_ALL + 8


@stage
def row_shift_by_lanes(address, count, partial):
    """scores.row_shift of the row at an address."""
    row = float32s(address)
    for lane in range(WIDTH):
        partial[lane] = -INFINITY
    together = count - count % WIDTH
    nan = largest_of(address, together, address_of(partial))
    for j in range(together, count):
        nan |= row[j] != row[j]
        partial[0] = max(partial[0], row[j])
    largest = partial[0]
    for lane in range(1, WIDTH):
        largest = max(largest, partial[lane])
    return NAN if nan else np.ceil(in_log2(largest))


@stage
def fill_table(a, address, order):
    """A neuron's table, and of which bank each place is; whether its numbers allow what the loops do."""
    table, whole = float32s(address), int32s(address)
    numbers, share = power_of_two(I32(a[TIME_STEPS])), power_of_two(I32(-a[TIME_STEPS]))
    for level in range(LEVELS):
        whole[LEVEL_STEPS + level] = 1 << level
    table[TOP] = numbers - ONE
    table[LOW], table[HIGH], table[LEAST], table[MOST] = -LARGEST, LARGEST, -LARGEST, LARGEST
    if a[CALIBRATED]:
        limits_of(a, float32s(address + 4 * LOW))
    if a[FORM] == IDENTITY:
        dropped = I32(23 - a[KEPT_BITS])
        whole[KEPT], whole[MIDDLE] = I32(I32(-1) << dropped), I32(I32(1) << I32(dropped - 1))
        whole[SEGMENTS], whole[DROPPED], whole[STEPS_SENT] = a[BASES] // 2, dropped, a[TIME_STEPS]
        whole[DIGITS] = (1 << a[TIME_STEPS]) - 1
        return True
    breaks, segments = float32s(a[BREAKPOINTS]), a[BANKS]
    for b in range(1, segments - 1):
        if not breaks[b - 1] <= breaks[b]:
            return False
    offset, gain, weight, bias = (
        float32s(a[OFFSET]),
        float32s(a[GAIN]),
        float32s(a[WEIGHT]),
        float32s(a[BIAS]),
    )
    least = SMALLEST_SCALED if a[KIND] == FRACTION else SMALLEST
    order[0] = 0
    for level in range(LEVELS):  # the bits of a bank from the other end
        for place in range(1 << level):
            order[(1 << level) + place] = order[place] + (MOST_BANKS >> (level + 1))
    for place in range(MOST_BANKS):
        b = min(I64(order[place]), segments - 1)  # no input comes to a place without a bank
        o, g, w, c = offset[b], gain[b] * numbers, weight[b] * share, bias[b]
        fits = (abs(o) < LARGEST_NUMBER) & (abs(g) < INFINITY) & (abs(weight[b]) < LARGEST_NUMBER)
        fits &= (weight[b] == ZERO) | (abs(w) >= least)
        fits &= (abs(c) < LARGEST_NUMBER) & ((c == ZERO) | (a[KIND] != FRACTION) | (abs(c) >= least))
        if not fits:
            return False
        table[COLUMNS + place], table[COLUMNS + MOST_BANKS + place] = o, g
        table[COLUMNS + 2 * MOST_BANKS + place], table[COLUMNS + 3 * MOST_BANKS + place] = w, c + ZERO
    for level in range(LEVELS):
        for place in range(max(1 << level, WIDTH)):
            # the bank in the middle of those that the levels before have left
            bank = order[place % (1 << level)] + (MOST_BANKS >> (level + 1))
            table[LIMITS[level] + place] = breaks[bank - 1] if bank < segments else NAN
    return True


@stage
def nothing_sent(x, y, count, shift):
    """What scores read of a row with NaN or infinity: NaN where such a number stands, or everywhere; else 0."""
    for j in range(count):
        z = in_log2(float32s(x)[j]) - shift
        float32s(y)[j] = z if z != z else ZERO


@stage
def suits_lanes(a):
    """Whether there is a loop for such a neuron and such inputs."""
    if a[DTYPE] != FLOAT32 or a[SHARED] != OWN or a[WHERE] != 0:
        return False
    if (a[SLOTS] > 1 or a[SPIKES] != 0) and a[TIME_STEPS] > BITS:
        return False
    if a[FORM] == IDENTITY:
        return not a[SCORES]
    if a[SCORES] and not a[CALIBRATED]:
        return False
    one_each = a[BASES] == a[BANKS] and a[BANKS] <= MOST_BANKS and not a[MIRRORED] and not a[OCTAVES]
    return a[FORM] == CLOSED and one_each and a[KIND] == (FRACTION if a[SCORES] else NONE)


@stage
def take_left(x, left, some):
    """The last elements of a block, at an address, and others that fill a register; some [2 * WIDTH]."""
    for lane in range(WIDTH):
        some[lane] = float32s(x)[lane if lane < left else 0]


@stage
def give_left(y, left, some):
    """What came of them, behind them in some."""
    for lane in range(left):
        float32s(y)[lane] = some[WIDTH + lane]


@kernel()
def by_lanes(a, first, last, thread):
    """Elements first .. last - 1 of a call, by one of its threads; block by block where there is no loop for it."""
    columns, recorded, ranged, identity = a[SCORES], a[SPIKES] != 0, a[CALIBRATED] != 0, a[FORM] == IDENTITY
    slots, rows = slots_of(a), a[BASES] if a[FORM] == IDENTITY else np.int64(MOST_BANKS)
    by_digits, groups = slots > 1, I64(1)
    counted = rows if by_digits else 0
    of_sums = AT_COUNTS + (8 * slots if recorded else 0)
    of_tally = of_sums + BYTES_OF_SUMS * counted
    room = allocate(of_tally + BYTES_OF_TALLY * counted + LINE)
    at = (room + LINE - 1) & -LINE
    table, order = float32s(at + AT_TABLE), int32s(at + AT_ORDER)
    if not (suits_lanes(a) and fill_table(a, at + AT_TABLE, order)):
        free(room)
        call_kernel(a[BLOCKS], address_of(a), first, last, thread)
        return
    counts = counts_of(a, slots, thread, at + AT_COUNTS)
    sums, tallied = at + of_sums, at + of_tally
    clear(bytes_at(sums), (BYTES_OF_SUMS + BYTES_OF_TALLY) * counted)
    found, sent, ends, some = (
        int64s(at + AT_FOUND),
        int64s(at + AT_SENT),
        float32s(at + AT_ENDS),
        float32s(at + AT_SOME),
    )
    clear(found, NANS + 2)
    for lane in range(WIDTH):
        ends[lane], ends[WIDTH + lane] = INFINITY, -INFINITY
    shift, until_spread, full, start = ZERO, I64(UNTIL_SPREAD), I64(0), first
    while start < last:
        count, x, y = min(RUN, last - start), a[INPUT] + 4 * start, a[OUTPUT] + 4 * start
        if columns:
            past = (start - first) % columns
            count = min(count, columns - past)
            if past == 0:
                shift = row_shift_by_lanes(x, columns, some)
                table[SHIFT] = shift
        if abs(shift) < INFINITY:
            whole = count - count % WIDTH
            # whole registers as they lie, then one that is not filled
            for part in range(2 if whole < count else 1):
                size, there, from_x, to_y, done = whole, whole, x, y, 0
                if part:
                    size, there, done = WIDTH, count - whole, 4 * whole
                    from_x, to_y = at + AT_SOME, at + AT_SOME + 4 * WIDTH
                    take_left(x + done, there, some)
                told = (
                    size, there, from_x, to_y, at + AT_TABLE, at + AT_DIGITS + done, at + AT_ROWS + done,
                    at + AT_FOUND, at + AT_SENT, at + AT_ENDS, np.int64(slots > 0), np.int64(ranged),
                )  # fmt: skip
                if identity:
                    run_identity(*told)
                elif columns:
                    run_scores(*told)
                else:
                    run_as_it_is(*told)
                if part:
                    give_left(y + done, there, some)
            if by_digits:
                full = count_digits(count, at + AT_DIGITS, at + AT_ROWS, rows, groups, sums, tallied, full)
        else:
            nothing_sent(x, y, count, shift)
        start += count
        until_spread -= count
        if by_digits and (until_spread < RUN or start >= last):
            spread(a, rows, groups, not identity, order, sums, tallied, counts)
            until_spread, full = I64(UNTIL_SPREAD), I64(0)
    found[ASKED] = sent[0] if columns else last - first
    if slots and (columns or identity):
        counts[slots - 1] += sent[0]
    if ranged:
        note_range(a, found)
        if recorded:
            note_events(a, slots, counts, found[ASKED])
    else:
        if found[NANS] or first == last:
            ends[0] = NAN
        of_all = int32s(at + AT_ENDS_OF_ALL)
        clear_ends(of_all)
        update_ends(ends, I64(2 * WIDTH), of_all)
        write_ends(of_all, float32s(a[ENDS] + 8 * thread))
    free(room)
