"""What a neuron reads of a reduced input, and which spikes it sends for it: closed, first_spike, steps, banks and cells."""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.cells import bank_numbers, find_bank_by_cells
from mbe_plugin.kernels.triton_gpu.compiled.counting import count_keys, count_spikes
from mbe_plugin.kernels.triton_gpu.compiled.numbers import (
    FIELD,
    MAGNITUDE,
    MANTISSA,
    SMALLEST_NORMAL,
    at_least,
    at_most,
    bits_of,
    float_of,
    look_up,
    whole_below_positive,
)

MOST_COMPARED = tl.constexpr(12)  # break points that are compared one by one; more are searched by halves


@triton.jit
def compared_of(reduced, MIRRORED: tl.constexpr, OCTAVES: tl.constexpr):
    """What is compared with the break points."""
    compared = reduced
    if OCTAVES:
        normal = tl.maximum(bits_of(reduced) & MAGNITUDE, 1 << 23)
        compared = float_of((normal & MANTISSA) | (126 << 23))
    elif MIRRORED:
        compared = tl.abs(reduced)
    return compared


@triton.jit
def find_bank(
    reduced, breakpoints, SEGMENTS: tl.constexpr, LEVELS: tl.constexpr, MIRRORED: tl.constexpr, OCTAVES: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """The bank that each reduced input drives; LEVELS: the binary digits of SEGMENTS - 1; PTX: see numbers.py."""
    compared = compared_of(reduced, MIRRORED, OCTAVES)
    segment = tl.zeros_like(reduced).to(tl.int32)
    if SEGMENTS <= MOST_COMPARED + 1:
        for b in tl.static_range(SEGMENTS - 1):
            segment += (compared >= tl.load(breakpoints + b)).to(tl.int32)
    else:
        EIGHTH: tl.constexpr = 1 << (LEVELS - 3)
        for part in tl.static_range(1, 8):  # the first three halvings, by what all elements read
            if part * EIGHTH < SEGMENTS:
                segment += tl.where(compared >= tl.load(breakpoints + (part * EIGHTH - 1)), EIGHTH, 0)
        for level in tl.static_range(3, LEVELS):
            tried = segment + (1 << (LEVELS - 1 - level))
            if SEGMENTS == 1 << LEVELS:
                segment = tl.where(compared >= look_up(breakpoints, tried - 1, PTX), tried, segment)
            else:
                there = tried < SEGMENTS
                point = look_up(breakpoints, tl.where(there, tried - 1, 0), PTX)
                segment = tl.where(there & (compared >= point), tried, segment)
    if MIRRORED:
        segment += (reduced < 0.0).to(tl.int32) * SEGMENTS
    return segment


@triton.jit
def middle_of_segment(bits, KEPT_BITS: tl.constexpr):
    """closed.middle_of_segment of a float's bits."""
    return float_of((bits & (-1 << (23 - KEPT_BITS))) | (1 << (22 - KEPT_BITS)))


@triton.jit
def is_normal(x):
    """Whether a float is no zero, denormal, infinity or NaN."""
    field = (bits_of(x) >> 23) & FIELD
    return (field != 0) & (field != FIELD)


@triton.jit
def encode_identity(x, KEPT_BITS: tl.constexpr):
    """closed.encode_identity."""
    return tl.where(is_normal(x), middle_of_segment(bits_of(x), KEPT_BITS), x * SMALLEST_NORMAL)


@triton.jit
def count_identity(
    x, taken, counters, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr, BINS: tl.constexpr
):
    """Its spikes: rows and digits are bits of the input."""
    bits = bits_of(x)
    code = (bits & MAGNITUDE) >> (23 - KEPT_BITS)
    row = ((code >> T) & (N // 2 - 1)) + tl.where(bits < 0, N // 2, 0)
    count_digits(row, code, taken, counters, 2, T, N, BINS)  # of two signs at least


@triton.jit
def count_digits(
    row, digits, taken, counters, BANKS: tl.constexpr, T: tl.constexpr, N: tl.constexpr, BINS: tl.constexpr
):
    """The spikes of a code, counters [T, N]: its last T binary digits, of which the highest is step 0."""
    for t in tl.static_range(T):
        fired = taken & (((digits >> (T - 1 - t)) & 1) == 1)
        count_spikes(counters + t * N, row, fired, BANKS, N, BINS)


@triton.jit
def decode_first_spike(reduced, KEPT_BITS: tl.constexpr, LEAST: tl.constexpr):
    """first_spike.decode; LEAST: 2^-T."""
    return tl.where(tl.abs(reduced) >= LEAST, middle_of_segment(bits_of(reduced), KEPT_BITS), 0.0)


@triton.jit
def count_first_spike(
    reduced, taken, counters, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr, BINS: tl.constexpr
):
    """The time is the exponent, the basis the mantissa's leading bits; BINS: a power of two above T * N."""
    bits = bits_of(reduced)
    time = 126 - ((bits >> 23) & FIELD)
    row = ((bits >> (23 - KEPT_BITS)) & (N // 2 - 1)) + tl.where(bits < 0, N // 2, 0)
    sent = taken & (time >= 0) & (time < T)
    count_keys(counters, tl.where(sent, time * N + row, 0), sent, T * N, BINS)


@triton.jit
def code_of(membrane, T: tl.constexpr, PTX: tl.constexpr):
    """The whole number whose T digits are the spikes of a membrane times 2^T; NaN for NaN."""
    code = at_most(at_least(membrane, 0.0), (1 << T) - 1.0)
    # that Triton's floor takes subnormal numbers for 0 changes nothing
    return whole_below_positive(code, PTX) if T < 24 else tl.floor(code)


@triton.jit
def decode_by_cells(
    reduced, taken, counters, breakpoints, cell_tables, MIRRORED: tl.constexpr, OCTAVES: tl.constexpr, T: tl.constexpr,
    N: tl.constexpr, SEGMENTS: tl.constexpr, COUNTED: tl.constexpr, BINS: tl.constexpr, CELLS: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """decode_closed of banks of one basis each, by the tables of cells.py."""
    compared = compared_of(reduced, MIRRORED, OCTAVES)
    bank = find_bank_by_cells(compared, cell_tables, breakpoints, SEGMENTS, CELLS, PTX)
    if MIRRORED:
        bank += (reduced < 0.0).to(tl.int32) * SEGMENTS
    offset, gain, weight, bias = bank_numbers(cell_tables, bank, CELLS, PTX)
    code = code_of((reduced - offset) * gain, T, PTX)  # by 2^T at once or afterwards is the same above 2^-126
    if COUNTED:
        digits = tl.where(code > 0.0, code, 0.0).to(tl.int32)  # NaN sends nothing
        count_digits(bank, digits, taken, counters, N, T, N, BINS)
    return code * (1.0 / (1 << T)) * weight + bias


@triton.jit
def decode_closed(
    reduced, bank, taken, counters, weight, bias, offset, gain,
    T: tl.constexpr, N: tl.constexpr, BANKS: tl.constexpr, COUNTED: tl.constexpr, BINS: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """closed.decode, and its spikes."""
    SPREAD: tl.constexpr = PTX and BANKS > 1
    y = tl.zeros_like(reduced)
    for place in range(N // BANKS):
        row = bank * (N // BANKS) + place
        membrane = (reduced - look_up(offset, row, SPREAD)) * look_up(gain, row, SPREAD)
        code = code_of(membrane * (1 << T), T, SPREAD)
        y += code * (1.0 / (1 << T)) * look_up(weight, row, SPREAD)
        if COUNTED:
            digits = tl.where(code > 0.0, code, 0.0).to(tl.int32)  # NaN sends nothing
            count_digits(row, digits, taken, counters, BANKS, T, N, BINS)
    return y + look_up(bias, bank, SPREAD)


@triton.jit
def decode_steps(
    reduced, bank, taken, counters, threshold, reset, intensity, weight, bias, offset, gain,
    T: tl.constexpr, N: tl.constexpr, BANKS: tl.constexpr, COUNTED: tl.constexpr, BINS: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """steps.decode, and its spikes."""
    SPREAD: tl.constexpr = PTX and BANKS > 1
    y = tl.zeros_like(reduced)
    for place in range(N // BANKS):
        row = bank * (N // BANKS) + place
        membrane = look_up(gain, row, SPREAD) * (reduced - look_up(offset, row, SPREAD))
        output = tl.zeros_like(reduced)
        for t in tl.static_range(T):
            fires = membrane - look_up(threshold, t * N + row, SPREAD) >= 0.0
            output += tl.where(fires, look_up(intensity, t * N + row, SPREAD), 0.0)
            membrane -= tl.where(fires, look_up(reset, t * N + row, SPREAD), 0.0)
            if COUNTED:
                count_spikes(counters + t * N, row, fires & taken, BANKS, N, BINS)
        y += look_up(weight, row, SPREAD) * output
    return y + look_up(bias, bank, SPREAD)
