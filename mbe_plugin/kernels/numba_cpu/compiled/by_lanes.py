"""A neuron's call on a processor with AVX-512, by the loops of ``lane_loops`` where there is one for it.

Their operations are those of ``blocks``, but for powers of two, which commute with rounding as long as numbers are normal:
``fill_table`` says whether a neuron's are.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from mbe_plugin.kernels.numba_cpu.compiled.banks import breakpoints_of
from mbe_plugin.kernels.numba_cpu.compiled.counting import (
    APART,
    BITS,
    UNTIL_SPREAD,
    count_digits,
    counts_of,
    note_events,
    room_for_digits,
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
from mbe_plugin.kernels.numba_cpu.compiled.machine import call_kernel, float32s, kernel, stage
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    BLOCK,
    I32,
    INFINITY,
    LARGEST,
    NAN,
    ONE,
    ZERO,
    F,
    floats,
    integers,
    longs,
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
    WORDS,
)

RUN = APART * BLOCK  # elements, whose digits the bytes can count
# of a table's numbers, so that powers of two commute with rounding; the second where what is decoded is scaled once more
LARGEST_NUMBER, SMALLEST, SMALLEST_SCALED = F(2.0**100), F(2.0**-126), F(2.0**-39)


@stage
def row_shift_by_lanes(address, count, partial):
    """scores.row_shift of the row at an address."""
    row = carray(float32s(address), (count,))
    for lane in range(WIDTH):
        partial[lane] = -INFINITY
    together = count - count % WIDTH
    nan = largest_of(address, together, partial.ctypes.data)
    for j in range(together, count):
        nan |= row[j] != row[j]
        partial[0] = max(partial[0], row[j])
    largest = partial[0]
    for lane in range(1, WIDTH):
        largest = max(largest, partial[lane])
    return NAN if nan else np.ceil(in_log2(largest))


@stage
def fill_table(a, table, order):
    """A neuron's table, and of which bank each place is; whether its numbers allow what the loops do."""
    numbers, share = power_of_two(I32(a[TIME_STEPS])), power_of_two(I32(-a[TIME_STEPS]))
    whole = table.view(np.int32)
    for level in range(LEVELS):
        whole[LEVEL_STEPS + level] = 1 << level
    table[TOP] = numbers - ONE
    if a[FORM] == IDENTITY:
        dropped = I32(23 - a[KEPT_BITS])
        whole[KEPT], whole[MIDDLE] = I32(I32(-1) << dropped), I32(I32(1) << I32(dropped - 1))
        whole[SEGMENTS], whole[DROPPED], whole[STEPS_SENT] = a[BASES] // 2, dropped, a[TIME_STEPS]
        whole[DIGITS] = (1 << a[TIME_STEPS]) - 1
        return True
    breaks = breakpoints_of(a)
    for b in range(1, breaks.size):
        if not breaks[b - 1] <= breaks[b]:
            return False
    offset, gain = carray(float32s(a[OFFSET]), (a[BASES],)), carray(float32s(a[GAIN]), (a[BASES],))
    weight, bias = carray(float32s(a[WEIGHT]), (a[BASES],)), carray(float32s(a[BIAS]), (a[BASES],))
    least = SMALLEST_SCALED if a[KIND] == FRACTION else SMALLEST
    for level in range(LEVELS):  # the bits of a bank from the other end
        for place in range(1 << level):
            order[(1 << level) + place] = order[place] + (MOST_BANKS >> (level + 1))
    for place in range(MOST_BANKS):
        b = min(order[place], a[BASES] - 1)  # no input comes to a place without a bank
        o, g, w, c = offset[b], gain[b] * numbers, weight[b] * share, bias[b]
        fits = (abs(o) < LARGEST_NUMBER) & (abs(g) < INFINITY) & (abs(weight[b]) < LARGEST_NUMBER)
        fits &= (weight[b] == ZERO) | (abs(w) >= least)
        fits &= (abs(c) < LARGEST_NUMBER) & ((c == ZERO) | (a[KIND] != FRACTION) | (abs(c) >= least))
        if not fits:
            return False
        for at, number in enumerate((o, g, w, c + ZERO)):
            table[COLUMNS + at * MOST_BANKS + place] = number
    for level in range(LEVELS):
        for place in range(max(1 << level, WIDTH)):
            # the bank in the middle of those that the levels before have left
            bank = order[place % (1 << level)] + (MOST_BANKS >> (level + 1))
            table[LIMITS[level] + place] = breaks[bank - 1] if bank <= breaks.size else NAN
    return True


@stage
def address_of(numbers):
    """Where an array's numbers begin."""
    return np.int64(numbers.ctypes.data)


@stage
def nothing_sent(x, y, count, shift):
    """What scores read of a row with NaN or infinity: NaN where such a number stands, or everywhere; else 0."""
    scores, out = carray(float32s(x), (count,)), carray(float32s(y), (count,))
    for j in range(count):
        z = in_log2(scores[j]) - shift
        out[j] = z if z != z else ZERO


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
    given = carray(float32s(x), (left,))
    for lane in range(WIDTH):
        some[lane] = given[lane if lane < left else 0]


@stage
def give_left(y, left, some):
    """What came of them, behind them in some."""
    out = carray(float32s(y), (left,))
    for lane in range(left):
        out[lane] = some[WIDTH + lane]


@kernel()
def by_lanes(arguments, first, last, thread):
    """Elements first .. last - 1 of a call, by one of its threads; block by block where there is no loop for it."""
    a = carray(arguments, (WORDS,))
    table, order = floats(TABLE_SIZE), integers(0 if a[FORM] == IDENTITY else MOST_BANKS, 0)
    if not (suits_lanes(a) and fill_table(a, table, order)):
        call_kernel(a[BLOCKS], a.ctypes.data, first, last, thread)
        return
    columns, recorded, ranged = a[SCORES], a[SPIKES] != 0, a[CALIBRATED] != 0
    slots = slots_of(a)
    counts = counts_of(a, slots, thread)
    by_digits = slots > 1
    digits, rows = integers(RUN + WIDTH, 0), integers(RUN + WIDTH, 0)
    sums, tallied = room_for_digits((order.size if order.size else a[BASES]) if by_digits else 0)
    found, sent, ends, some = longs(NANS + 1), longs(1), floats(2 * WIDTH), floats(2 * WIDTH)
    for lane in range(WIDTH):
        ends[lane], ends[WIDTH + lane] = INFINITY, -INFINITY
    table[LOW], table[HIGH], table[LEAST], table[MOST] = -LARGEST, LARGEST, -LARGEST, LARGEST
    if ranged:
        limits_of(a, table[LOW:])
    at_table, at_digits, at_rows = address_of(table), address_of(digits), address_of(rows)
    at_found, at_sent, at_ends = address_of(found), address_of(sent), address_of(ends)
    at_some = address_of(some)
    counted, known = np.int64(slots > 0), np.int64(ranged)
    shift, until_spread, full, start = ZERO, UNTIL_SPREAD, 0, first
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
                    from_x, to_y = at_some, at_some + 4 * WIDTH
                    take_left(x + done, there, some)
                told = (
                    size, there, from_x, to_y, at_table, at_digits + done, at_rows + done, at_found, at_sent, at_ends,
                    counted, known,
                )  # fmt: skip
                if a[FORM] == IDENTITY:
                    run_identity(*told)
                elif columns:
                    run_scores(*told)
                else:
                    run_as_it_is(*told)
                if part:
                    give_left(y + done, there, some)
            if by_digits:
                full = count_digits(count, digits, rows, 1, sums, tallied, full)
        else:
            nothing_sent(x, y, count, shift)
        start += count
        until_spread -= count
        if by_digits and (until_spread < RUN or start >= last):
            spread(a, 1, order, sums, tallied, counts)
            until_spread, full = UNTIL_SPREAD, 0
    found[ASKED] = sent[0] if columns else last - first
    if slots and (columns or a[FORM] == IDENTITY):
        counts[slots - 1] += sent[0]
    if ranged:
        note_range(a, found)
        if recorded:
            note_events(a, counts, found[ASKED])
    else:
        if found[NANS] or first == last:
            ends[0] = NAN
        of_all = integers(2, 0)
        clear_ends(of_all)
        update_ends(ends, 2 * WIDTH, of_all)
        write_ends(of_all, carray(float32s(a[ENDS] + 8 * thread), (2,)))
