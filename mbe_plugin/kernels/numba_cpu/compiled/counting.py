"""Which elements are counted, and their spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    add_to,
    bits_of,
    bytes_at,
    call_llvm,
    clear,
    int64s,
    repeated,
    stage,
    uint16s,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import I32, ZERO, U
from mbe_plugin.kernels.numba_cpu.compiled.words import (
    BASES,
    COUNTS,
    FRACTION,
    KEPT_BITS,
    KIND,
    SLOTS,
    SPIKES,
    TALLY,
    TIME_STEPS,
    WHERE,
)

BITS = 16  # that are counted at once
APART = 4  # sums of bytes beside one another, each of every fourth element
BYTES_OF_SUMS, BYTES_OF_TALLY = APART * BITS, 2 * BITS  # of each row
FULL = 255  # what a byte holds
UNTIL_SPREAD = 1 << 15  # elements, which 16 bits can count


@stage
def ask(a, first, count, asked):
    """Which elements the caller asks about."""
    if a[WHERE]:
        where = bytes_at(a[WHERE] + first)
        for j in range(count):
            asked[j] = I32(where[j] != 0)


@stage
def take(a, count, active, asked, taken, slots, counts):
    """Which elements are counted; and how many exponents they send, added to the last of counts."""
    for j in range(count):
        taken[j] = active[j] & asked[j]
    if a[KIND] >= FRACTION:
        sent = 0
        for j in range(count):
            sent += taken[j]
        counts[slots - 1] += sent


@stage
def digits_of_identity(a, count, x, taken, digits, row):
    """Rows and digits of an identity's spikes are bits of its input."""
    segments, dropped, steps = U(a[BASES] // 2), U(23 - a[KEPT_BITS]), U(a[TIME_STEPS])
    for j in range(count):
        bits = U(bits_of(x[j]))
        code = U((bits & 0x7FFFFFFF) >> dropped)
        segment = U((code >> steps) & (segments - 1))
        row[j] = I32(segment + ((bits >> 31) * segments))
        digits[j] = U(code & ((1 << steps) - 1)) if taken[j] != 0 else 0


@stage
def digits_of_codes(count, codes, taken, digits):
    """Those of decode_closed's codes, whose NaN sends nothing."""
    for j in range(count):
        digits[j] = U(I32(codes[j])) if (taken[j] != 0) & (codes[j] > ZERO) else 0


@intrinsic
def add_bits(context: Any, count: Any, digits: Any, rows: Any, sums: Any, stride: Any) -> Any:
    """Of each element the BITS digits at an address, of 32 bits for each element, added to the BITS bytes of its row.

    Byte 2 k counts bit k, byte 2 k + 1 bit k + 8. Addresses; the sums of a row are ``stride`` bytes behind those of the one
    before. There are APART sums, one behind the other, for elements in turn, since an addition to what was just written has
    to wait for it.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count, digits, rows, sums, stride = args
        word, index, short, byte = (ir.IntType(bits) for bits in (64, 32, 16, 8))
        bytes_ = ir.VectorType(byte, BITS)
        together = builder.and_(count, ir.Constant(word, -APART))
        place_of_bit = ir.Constant(bytes_, [1 << place // 2 for place in range(BITS)])
        one_each = ir.Constant(bytes_, [1] * BITS)

        def add(element: Any, turn: int) -> None:
            at = builder.shl(element, ir.Constant(word, 2))
            digit = builder.load(builder.inttoptr(builder.add(digits, at), short.as_pointer()))
            row = builder.load(builder.inttoptr(builder.add(rows, at), index.as_pointer()))
            every = builder.bitcast(repeated(builder, digit, BITS // 2), bytes_)
            fires = call_llvm(
                builder, f"llvm.umin.v{BITS}i8", bytes_, builder.and_(every, place_of_bit), one_each
            )
            of_row = builder.add(sums, builder.mul(builder.zext(row, word), stride))
            of_row = builder.add(of_row, ir.Constant(word, BITS * turn))
            of_row = builder.inttoptr(of_row, bytes_.as_pointer())
            builder.store(builder.add(builder.load(of_row, align=1), fires), of_row, align=1)

        for start, stop, step in ((ir.Constant(word, 0), together, APART), (together, count, 1)):
            with cgutils.for_range_slice(builder, start, stop, ir.Constant(word, step), word) as (j, _):
                for turn in range(step):
                    add(builder.add(j, ir.Constant(word, turn)), turn)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), build


@intrinsic
def tally(context: Any, rows: Any, sums: Any, found: Any) -> Any:
    """What count_digits has summed up of so many rows added to found [., BITS], numbers of 16 bits; it begins anew.

    Addresses.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, sums, found = args
        word = ir.IntType(64)
        bytes_, numbers = ir.VectorType(ir.IntType(8), BITS), ir.VectorType(ir.IntType(16), BITS)
        with cgutils.for_range(builder, rows, intp=word) as loop:
            of_row = builder.mul(loop.index, ir.Constant(word, BITS))
            into = builder.inttoptr(
                builder.add(found, builder.shl(of_row, ir.Constant(word, 1))), numbers.as_pointer()
            )
            total = builder.load(into, align=1)
            for turn in range(APART):
                at = builder.add(
                    builder.mul(of_row, ir.Constant(word, APART)), ir.Constant(word, BITS * turn)
                )
                at = builder.inttoptr(builder.add(sums, at), bytes_.as_pointer())
                total = builder.add(total, builder.zext(builder.load(at, align=1), numbers))
                builder.store(ir.Constant(bytes_, [0] * BITS), at, align=1)
            builder.store(total, into, align=1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@stage
def count_digits(count, digits, row, rows, groups, sums, found, most):
    """The digits of elements added up in sums, in the order of add_bits: ``groups`` of BITS of each row. Addresses.

    most: what a byte may have reached before; the result is what it may have reached then. A full byte is tallied first.
    """
    more = count // APART + APART - 1
    if most + more > FULL:
        tally(rows * groups, sums, found)
        most = 0
    for group in range(groups):
        at = sums + APART * BITS * group
        add_bits(count, digits + BITS // 8 * group, row, at, APART * BITS * groups)
    return most + more


@stage
def count_first_spike(a, count, reduced, taken, counts):
    """The time is the exponent, the basis the mantissa's leading bits."""
    segments = U(a[BASES] // 2)
    for j in range(count):
        bits = U(bits_of(reduced[j]))
        time = 126 - np.int64(U((bits >> 23) & 0xFF))
        if taken[j] != 0 and 0 <= time < a[TIME_STEPS]:
            segment = U((bits >> U(23 - a[KEPT_BITS])) & (segments - 1))
            counts[time * a[BASES] + U(segment + ((bits >> 31) * segments))] += 1


@stage
def spread(a, rows, groups, ordered, order, sums, found, counts):
    """What count_digits found as spikes per step and basis, added to counts [T, N]; the highest digit is step 0.

    order: the bases that the rows stand for, if they are ordered. What was found begins anew. Sums and found: addresses.
    """
    tally(rows * groups, sums, found)
    numbers = uint16s(found)
    for digit in range(a[TIME_STEPS]):
        first = (a[TIME_STEPS] - 1 - digit) * a[BASES]
        group, bit = digit // BITS, digit % BITS
        at = group * BITS + bit % 8 * 2 + bit // 8
        for row in range(rows):
            number = numbers[row * groups * BITS + at]
            if number:
                counts[first + (order[row] if ordered else row)] += np.int64(number)
    clear(numbers, rows * groups * BITS)


@stage
def counts_of(a, slots, thread, own):
    """A thread's counts: in its own room, at an address, for a recording, which note_events adds to, or the caller's."""
    if a[SPIKES] == 0:
        return int64s(a[COUNTS] + 8 * thread * slots)
    counts = int64s(own)
    clear(counts, slots)
    return counts


@stage
def slots_of(a):
    """How many counts there are: of spikes [T, N] and exponents, of exponents, or none."""
    return a[TIME_STEPS] * a[BASES] + 1 if a[SPIKES] else a[SLOTS]


@stage
def note_events(a, slots, counts, elements):
    """Counts of spikes and, the last, of exponents, added to a recording's; TALLY is [elements, exponents, elements]."""
    for slot in range(slots - 1):
        if counts[slot]:
            add_to(a[SPIKES] + 8 * slot, counts[slot])
    add_to(a[TALLY], elements)
    add_to(a[TALLY] + 8, counts[slots - 1])
    add_to(a[TALLY] + 16, elements)
