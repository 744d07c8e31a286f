"""The kernels: a neuron of every element, and the numerators of a softmax's rows."""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.counting import add_once, add_range, count
from mbe_plugin.kernels.triton_gpu.compiled.decoding import (
    count_first_spike,
    count_identity,
    decode_by_cells,
    decode_closed,
    decode_first_spike,
    decode_steps,
    encode_identity,
    find_bank,
    is_normal,
)
from mbe_plugin.kernels.triton_gpu.compiled.numbers import (
    LEAST_INTEGER,
    at_least,
    block_start,
    in_order,
    power_of_two,
    rank,
    read,
    rounded_to,
    shifted,
    whole_below,
    write,
)
from mbe_plugin.kernels.triton_gpu.compiled.reductions import restore, split

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-(2.0 - 2.0**-23) * 2.0**127)
DEEPEST = tl.constexpr(-125.0)  # operators.softmax's


@triton.jit
def decode(
    x, asked, counts, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, cell_tables,
    FORM: tl.constexpr, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr, MIRRORED: tl.constexpr,
    OCTAVES: tl.constexpr, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr, BANKS: tl.constexpr,
    LEVELS: tl.constexpr, BINS: tl.constexpr, CELLS: tl.constexpr, COUNTED: tl.constexpr, SLOTS: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """The decoded values of x; what ``asked`` elements send is added to counts [SLOTS]. PTX: see numbers.py."""
    if FORM == "identity":
        taken = is_normal(x) & asked
        y = encode_identity(x, KEPT_BITS)
        if COUNTED:
            count_identity(x, taken, counts, KEPT_BITS, T, N, BINS)
    else:
        reduced, exponent, active = split(x, KIND, POWER, ONE_SIDED)
        taken = active & asked
        if FORM == "first_spike":
            y = decode_first_spike(reduced, KEPT_BITS, 1.0 / (1 << T))
            if COUNTED:
                count_first_spike(reduced, taken, counts, KEPT_BITS, T, N, BINS)
        elif CELLS > 0:
            y = decode_by_cells(
                reduced, taken, counts, breakpoints, cell_tables, MIRRORED, OCTAVES, T, N,
                BANKS // 2 if MIRRORED else BANKS, COUNTED, BINS, CELLS, PTX,
            )  # fmt: skip
        else:
            bank = 0
            if BANKS > 1:
                SEGMENTS: tl.constexpr = BANKS // 2 if MIRRORED else BANKS
                bank = find_bank(reduced, breakpoints, SEGMENTS, LEVELS, MIRRORED, OCTAVES, PTX)
            if FORM == "closed":
                y = decode_closed(
                    reduced, bank, taken, counts, weight, bias, offset, gain, T, N, BANKS, COUNTED, BINS, PTX,
                )  # fmt: skip
            else:
                y = decode_steps(
                    reduced, bank, taken, counts, threshold, reset, intensity, weight, bias, offset, gain,
                    T, N, BANKS, COUNTED, BINS, PTX,
                )  # fmt: skip
        y = restore(y, x, exponent, active, KIND, POWER, ONE_SIDED)
    if SLOTS > 0 and KIND != "none" and KIND != "clip":
        count(counts + (SLOTS - 1), taken)
    return y


@triton.jit
def limits_of(calibrated, accurate_low, accurate_high, most):
    """The calibrated range, and what it is joined with the accurate one."""
    low = tl.minimum(tl.maximum(tl.load(calibrated), -most), most)
    high = tl.minimum(tl.maximum(tl.load(calibrated + 1), -most), most)
    return low, high, tl.minimum(low, accurate_low), tl.maximum(high, accurate_high)


@triton.jit
def count_range(
    x, asked, calibrated, accurate_low, accurate_high, most, outside, beyond, DTYPE: tl.constexpr
):
    """Add to two counters what CalibratedNode.count_range counts of a block."""
    low, high, least, greatest = limits_of(calibrated, accurate_low, accurate_high, most)
    left = asked & is_outside(x, low, high, DTYPE)
    found = tl.sum(tl.ravel(left.to(tl.int32)))
    if found > 0:  # most blocks have nothing to say
        lost = tl.sum(tl.ravel((left & is_outside(x, least, greatest, DTYPE)).to(tl.int32)))
        add_range(outside, beyond, lost, found - lost)


@triton.jit
def is_outside(x, low, high, DTYPE: tl.constexpr):
    """Which numbers are not within limits; NaN never is."""
    within = (x >= rounded_to(low, DTYPE)) & (x <= rounded_to(high, DTYPE))
    return within == 0


@triton.jit
def shared_exponent(exponents, start, lane, inside, inner, along, SHARED: tl.constexpr, WIDE: tl.constexpr):
    """The exponent of each element's shared scale; the elements are [., along, inner]."""
    if SHARED == "tensor":
        return tl.load(exponents)
    else:
        period = inner * along
        first = start % period
        place = first + lane if WIDE else first.to(tl.int32) + lane
        if SHARED == "channel":
            return tl.load(exponents + (place // inner) % along, mask=inside, other=0)
        else:
            row = start // period + place // period
            return tl.load(exponents + row * inner + place % inner, mask=inside, other=0)


@triton.jit
def neuron(
    inputs, outputs, where, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, cell_tables,
    exponents, found, seen, outside, beyond, calibrated, accurate_low, accurate_high, most, size, columns, of_row, inner,
    along,
    DTYPE: tl.constexpr, FORM: tl.constexpr, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr,
    MIRRORED: tl.constexpr, OCTAVES: tl.constexpr, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
    BANKS: tl.constexpr, LEVELS: tl.constexpr, BINS: tl.constexpr, CELLS: tl.constexpr, COUNTED: tl.constexpr,
    SLOTS: tl.constexpr, MASKED: tl.constexpr, RANGED: tl.constexpr, STRIDED: tl.constexpr, SHARED: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """A block of elements, as the output has them in memory; of the inputs, if STRIDED, rows of so many columns lie apart.

    found: counts [SLOTS]. seen, outside, beyond: counters, if RANGED.
    """
    start = block_start(tl.program_id(0), BLOCK)
    lane = tl.arange(0, BLOCK)
    inside = lane < tl.minimum(size - start, BLOCK).to(tl.int32)
    at = start + lane
    if STRIDED:
        place = start.to(tl.int32) + lane
        at = (place // columns).to(tl.int64) * of_row + place % columns
    x = read(inputs + at, inside, DTYPE)
    asked = inside
    if MASKED:
        asked = inside & (tl.load(where + start + lane, mask=inside, other=0) != 0)
    exponent = 0
    if SHARED != "":
        exponent = shared_exponent(exponents, start, lane, inside, inner, along, SHARED, WIDE)
    unscaled = x
    if SHARED != "":
        x = shifted(x, -exponent)
    if RANGED:
        ranged = x if SHARED == "channel" else unscaled
        if SHARED == "tensor":  # what is within the scale does not saturate
            accurate_high = tl.minimum(power_of_two(exponent), most)
            accurate_low = -accurate_high
        WORK: tl.constexpr = "float32" if SHARED == "channel" else DTYPE
        count_range(ranged, asked, calibrated, accurate_low, accurate_high, most, outside, beyond, WORK)
        if MASKED:
            count(seen, asked)
        else:
            add_once(seen, tl.zeros([], tl.int64) + size)
    y = decode(
        x, asked, found, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, cell_tables,
        FORM, KIND, POWER, ONE_SIDED, MIRRORED, OCTAVES, KEPT_BITS, T, N, BANKS, LEVELS, BINS, CELLS, COUNTED, SLOTS, PTX,
    )  # fmt: skip
    if SHARED != "":
        y = shifted(y, exponent)
    write(outputs + start + lane, y, inside, DTYPE, PTX)


@triton.jit
def in_log2(score):
    """A score in units of log 2; a mask that is finite stays finite."""
    return at_least(score * LOG2_E, LOWEST)


@triton.jit
def row_shift(scores, present, columns, COLUMNS: tl.constexpr):
    """The whole number at or above each row's largest score in units of log 2, NaN where one is."""
    lane = tl.arange(0, COLUMNS)[None, :]
    largest = tl.max(present.to(tl.int32) * 0, axis=1) + LEAST_INTEGER
    for first in range(0, columns, COLUMNS):
        inside = present & (lane < columns - first)
        x = tl.load(scores + first + lane, mask=inside, other=-float("inf"))
        largest = tl.maximum(largest, tl.max(rank(x), axis=1))
    return -whole_below(-in_log2(in_order(largest)))[:, None]


@triton.jit
def numerators(
    inputs, outputs, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, cell_tables,
    found, seen, outside, beyond, calibrated, accurate_low, accurate_high, most, rows, columns,
    FORM: tl.constexpr, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr, MIRRORED: tl.constexpr,
    OCTAVES: tl.constexpr, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr, BANKS: tl.constexpr,
    LEVELS: tl.constexpr, BINS: tl.constexpr, CELLS: tl.constexpr, COUNTED: tl.constexpr, SLOTS: tl.constexpr,
    RANGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """2^z of some rows of scores, float32, z as operators.softmax has it; found: as for ``neuron``."""
    start = block_start(tl.program_id(0), ROWS)
    row = tl.arange(0, ROWS)[:, None]
    present = row < tl.minimum(rows - start, ROWS).to(tl.int32)
    at = start * columns + row.to(tl.int64) * columns
    shift = row_shift(inputs + at, present, columns, COLUMNS)
    lane = tl.arange(0, COLUMNS)[None, :]
    for first in range(0, columns, COLUMNS):
        inside = present & (lane < columns - first)
        x = tl.load(inputs + at + first + lane, mask=inside, other=-float("inf"))
        z = in_log2(x) - shift
        sent = (z > DEEPEST) & (x != -float("inf"))
        z = tl.where(sent | (z != z), z, 0.0)
        y = decode(
            z, sent & inside, found, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, cell_tables,
            FORM, KIND, POWER, ONE_SIDED, MIRRORED, OCTAVES, KEPT_BITS, T, N, BANKS, LEVELS, BINS, CELLS, COUNTED, SLOTS,
            PTX,
        )  # fmt: skip
        if RANGED:
            count_range(
                z, sent & inside, calibrated, accurate_low, accurate_high, most, outside, beyond, "float32"
            )
            count(seen, sent & inside)
        tl.store(outputs + at + first + lane, tl.where(sent | (z != z), y, 0.0), mask=inside)
