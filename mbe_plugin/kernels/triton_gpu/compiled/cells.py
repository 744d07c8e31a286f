"""Finding an element's bank in two reads, and all of the bank's numbers in one, in tables that a kernel lays out before.

The range of the break points is cut into equal cells, as in kernels.banks: a cell knows how many break points lie in cells
before it, and the next of them. Where a cell holds more than one, all elements compare as often as the fullest cell needs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.numbers import (
    POSITIVE,
    bits_of,
    float_of,
    look_up,
    look_up_2,
    look_up_4,
)

# numbers before the cells: the first break point, cells per unit, most break points in a cell
HEAD = tl.constexpr(4)


@triton.jit
def cell_of(x, first, per_unit, CELLS: tl.constexpr):
    """The cell of each number: 0 below the first, the last one above; no less for a larger number, however it rounds."""
    place = (x - first) * per_unit
    place = tl.minimum(tl.maximum(place, 0.0), CELLS - 1.0)  # NaN, which has no place, becomes 0
    return bits_of(place + POSITIVE) & (CELLS - 1)


@triton.jit
def points_before(
    cell, breakpoints, first, per_unit, SEGMENTS: tl.constexpr, LEVELS: tl.constexpr, CELLS: tl.constexpr
):
    """How many break points lie in cells before each one."""
    found = tl.zeros_like(cell)
    for level in tl.static_range(LEVELS):
        tried = found + (1 << (LEVELS - 1 - level))
        there = tried < SEGMENTS
        point = tl.load(breakpoints + tl.where(there, tried - 1, 0))
        found = tl.where(there & (cell_of(point, first, per_unit, CELLS) < cell), tried, found)
    return found


@triton.jit
def lay_out(
    breakpoints, weight, bias, offset, gain, cell_tables, SEGMENTS: tl.constexpr, LEVELS: tl.constexpr, BANKS: tl.constexpr,
    CELLS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Of banks of one basis each: the head, then each cell's [CELLS, 2], each bank's offset, gain * 2^T, weight, bias."""
    first, last = tl.load(breakpoints), tl.load(breakpoints + (SEGMENTS - 2))
    per_unit = tl.div_rn(tl.zeros_like(first) + CELLS, last - first)
    per_unit = tl.where(per_unit < float("inf"), per_unit, 0.0)  # all at one place: then one cell holds them
    cell = tl.arange(0, CELLS)
    before = points_before(cell, breakpoints, first, per_unit, SEGMENTS, LEVELS, CELLS)
    here = points_before(cell + 1, breakpoints, first, per_unit, SEGMENTS, LEVELS, CELLS) - before
    there = before < SEGMENTS - 1
    following = tl.load(breakpoints + tl.where(there, before, 0))
    tl.store(cell_tables, first)
    tl.store(cell_tables + 1, per_unit)
    tl.store(cell_tables + 2, float_of(tl.max(here, axis=0)))
    tl.store(cell_tables + HEAD + 2 * cell, float_of(before))
    following = tl.where(there, following, float("nan"))  # nothing is at or above NaN
    tl.store(cell_tables + HEAD + 2 * cell + 1, following)
    bank = tl.arange(0, CELLS)  # of which there are no more
    there = bank < BANKS
    row = cell_tables + HEAD + 2 * CELLS + 4 * bank
    tl.store(row, tl.load(offset + bank, mask=there, other=0.0), mask=there)
    tl.store(row + 1, tl.load(gain + bank, mask=there, other=0.0) * (1 << T), mask=there)
    tl.store(row + 2, tl.load(weight + bank, mask=there, other=0.0), mask=there)
    # a sum that begins with 0 is never -0
    tl.store(row + 3, tl.load(bias + bank, mask=there, other=0.0) + 0.0, mask=there)


@triton.jit
def find_bank_by_cells(
    compared, cell_tables, breakpoints, SEGMENTS: tl.constexpr, CELLS: tl.constexpr, PTX: tl.constexpr
):
    """How many break points are at or below each number; PTX: see numbers.py."""
    cell = cell_of(compared, tl.load(cell_tables), tl.load(cell_tables + 1), CELLS)
    before, following = look_up_2(cell_tables + HEAD, cell, PTX)
    segment = bits_of(before) + (compared >= following).to(tl.int32)
    for _ in range(1, bits_of(tl.load(cell_tables + 2))):
        further = segment < SEGMENTS - 1
        point = look_up(breakpoints, tl.where(further, segment, 0), PTX)
        segment += (further & (compared >= point)).to(tl.int32)
    return segment


@triton.jit
def bank_numbers(cell_tables, bank, CELLS: tl.constexpr, PTX: tl.constexpr):
    """offset, gain * 2^T, weight and bias of each element's bank."""
    return look_up_4(cell_tables + (HEAD + 2 * CELLS), bank, PTX)
