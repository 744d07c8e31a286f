"""Which bank of bases an element drives, and the numbers of its bases."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mbe_plugin.kernels.numba_cpu.compiled.machine import (
    address_of,
    bits_of,
    clear,
    float32s,
    float_of,
    stage,
)
from mbe_plugin.kernels.numba_cpu.compiled.numbers import (
    BLOCK,
    I32,
    I64,
    INFINITY,
    MAGNITUDE,
    MANTISSA,
    NAN,
    ZERO,
    F,
)
from mbe_plugin.kernels.numba_cpu.compiled.words import (
    BANKS,
    BASES,
    BIAS,
    BREAKPOINTS,
    GAIN,
    INTENSITY,
    MIRRORED,
    OCTAVES,
    OFFSET,
    RESET,
    THRESHOLD,
    TIME_STEPS,
    WEIGHT,
)

MOST_COMPARED = (
    12  # break points that are compared with every element; more are found by cells, as in banks.py
)
MOST_PER_CELL = 4
CELLS, FEW_CELLS, MANY = 2048, 256, 1 << 14  # few for fewer than MANY elements: they are made in every call


@intrinsic
def columns_of(context: Any, table: Any, rows: Any, columns: Any) -> Any:
    """Eight rows of four floats, by the int32 numbers at ``rows``, into four columns that are BLOCK floats apart.

    Four loads of one float each would be four times as many; a compiler does not see that they are neighbours.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table, rows, columns = args
        word, index, number = ir.IntType(64), ir.IntType(32), ir.FloatType()
        four, eight = ir.VectorType(number, 4), ir.VectorType(number, 8)

        def mixed(a: Any, b: Any, *order: int) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(index, len(order)), list(order)))

        def row(k: int) -> Any:
            at = builder.add(rows, ir.Constant(word, 4 * k))
            number_of = builder.zext(builder.load(builder.inttoptr(at, index.as_pointer())), word)
            at = builder.add(table, builder.shl(number_of, ir.Constant(word, 4)))
            return builder.load(builder.inttoptr(at, four.as_pointer()), align=4)

        # rows k and k + 4 side by side; then a transposition in either half
        pairs = [mixed(row(k), row(k + 4), *range(8)) for k in range(4)]
        low = [mixed(a, b, 0, 8, 1, 9, 4, 12, 5, 13) for a, b in (pairs[:2], pairs[2:])]
        high = [mixed(a, b, 2, 10, 3, 11, 6, 14, 7, 15) for a, b in (pairs[:2], pairs[2:])]
        for k, (a, b) in enumerate((low, low, high, high)):
            order = (0, 1, 8, 9, 4, 5, 12, 13) if k % 2 == 0 else (2, 3, 10, 11, 6, 7, 14, 15)
            at = builder.add(columns, ir.Constant(word, 4 * BLOCK * k))
            builder.store(mixed(a, b, *order), builder.inttoptr(at, eight.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@stage
def cells_of(a, size, before, limits):
    """How many break points lie in cells before each; and the cells' number, or 0 where they would not help.

    limits [B]: the break points, then a NaN, which no value reaches.
    """
    breaks, count = float32s(a[BREAKPOINTS]), segments_of(a) - 1
    for b in range(count):
        limits[b] = breaks[b]
    limits[count] = NAN
    if count <= MOST_COMPARED:
        return I64(0), ZERO, I64(0)
    cells, per_unit, most = I64(0), ZERO, I64(0)
    for wanted in (FEW_CELLS, CELLS):
        if wanted == FEW_CELLS or (most > 1 and size >= MANY):
            cells, per_unit, most = fill_cells(limits, count, wanted, before)
    return (cells if most <= MOST_PER_CELL else 0), per_unit, most


@stage
def fill_cells(limits, count, cells, before):
    """So many cells between the first and the last break point: their number, how many a unit has, most in one cell."""
    per_unit = F(cells) / (limits[count - 1] - limits[0])
    if not per_unit < INFINITY:
        return I64(0), ZERO, I64(0)
    clear(before, cells + 1)
    for b in range(count):
        before[cell(limits[b], limits[0], per_unit, F(cells - 1)) + 1] += 1
    most = I64(0)
    for c in range(1, cells + 1):
        most = max(most, I64(before[c]))
        before[c] += before[c - 1]
    return cells, per_unit, most


@stage
def cell(value, first, per_unit, last):
    """The cell of a value; NaN is in the first."""
    place = (value - first) * per_unit
    place = place if place > ZERO else ZERO
    return I32(place if place < last else last)


@stage
def segments_of(a):
    """How many segments the break points part."""
    return a[BANKS] // 2 if a[MIRRORED] else a[BANKS]


@stage
def magnitudes(a, count, reduced, compared):
    """What is compared with the break points, if not the reduced input itself."""
    if a[OCTAVES]:
        for j in range(count):
            bits = max(I32(bits_of(reduced[j]) & I32(MAGNITUDE)), I32(1 << 23))
            compared[j] = float_of(I32(I32(bits & I32(MANTISSA)) | I32(126 << 23)))
    else:
        for j in range(count):
            compared[j] = abs(reduced[j])


@stage
def find_banks(count, compared, segments, cells, per_unit, most, before, limits, bank):
    """The bank that each input drives, but for the sign."""
    if cells == 0:
        clear(bank, count)
        for b in range(segments - 1):
            for j in range(count):
                bank[j] += I32(compared[j] >= limits[b])
        return
    first, last = limits[0], F(cells - 1)
    for j in range(count):
        bank[j] = cell(compared[j], first, per_unit, last)
    if most == 1:
        for j in range(count):
            segment = before[bank[j]]
            bank[j] = segment + I32(compared[j] >= limits[segment])
        return
    for j in range(count):
        segment = before[bank[j]]
        for _ in range(most):
            segment += I32(compared[j] >= limits[segment])
        bank[j] = segment


@stage
def mirror(count, reduced, segments, bank):
    """Negative inputs drive the second half of the banks."""
    for j in range(count):
        bank[j] += segments if reduced[j] < ZERO else I32(0)


@stage
def rows_of_bases(a, rows):
    """Offset, gain, weight and the bank's constant of every basis, [N, 4]."""
    offset, gain, weight, bias = (
        float32s(a[OFFSET]),
        float32s(a[GAIN]),
        float32s(a[WEIGHT]),
        float32s(a[BIAS]),
    )
    per_bank = a[BASES] // a[BANKS]
    for row in range(a[BASES]):
        rows[4 * row], rows[4 * row + 1] = offset[row], gain[row]
        rows[4 * row + 2], rows[4 * row + 3] = weight[row], bias[row // per_bank]


@stage
def at_place(count, bank, per_bank, place, row):
    """Which basis is at ``place`` of each bank."""
    for j in range(count):
        row[j] = I32(I32(bank[j] * per_bank) + place)


@stage
def look_up(count, table, row, columns):
    """Rows of a table [., 4] as columns [4, BLOCK]."""
    for j in range(0, count, 8):
        columns_of(address_of(table), address_of(row) + 4 * j, address_of(columns) + 4 * j)


@stage
def rows_of_steps(a, rows):
    """Threshold, reset and intensity of every step and basis, [T, N, 4]."""
    threshold, reset, intensity = float32s(a[THRESHOLD]), float32s(a[RESET]), float32s(a[INTENSITY])
    for row in range(a[TIME_STEPS] * a[BASES]):
        rows[4 * row], rows[4 * row + 1] = threshold[row], reset[row]
        rows[4 * row + 2], rows[4 * row + 3] = intensity[row], ZERO
