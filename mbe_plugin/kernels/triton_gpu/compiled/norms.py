"""LayerNorm and RMSNorm in one pass: the deviation's neuron, the squares, their mean, the neuron of 1/sqrt, the product."""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.decoding import encode_identity
from mbe_plugin.kernels.triton_gpu.compiled.kernels import count_range, decode, note
from mbe_plugin.kernels.triton_gpu.compiled.numbers import block_start, read, write


@triton.jit
def mean_of(x, columns):
    """The mean of each row, whose other places hold 0."""
    total = tl.sum(x, axis=1)
    return tl.div_rn(total, tl.zeros_like(total) + columns)


@triton.jit
def normalize(
    inputs, outputs, gains, shifts, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, found,
    of_deviation, deviation_low, deviation_high, of_variance, variance_low, variance_high, most, rows, columns, eps,
    DTYPE: tl.constexpr, CENTERED: tl.constexpr, GAIN: tl.constexpr, SHIFT: tl.constexpr, DEVIATION_BITS: tl.constexpr,
    FORM: tl.constexpr, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr, MIRRORED: tl.constexpr,
    OCTAVES: tl.constexpr, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr, BANKS: tl.constexpr,
    LEVELS: tl.constexpr, BINS: tl.constexpr, COUNTED: tl.constexpr, SLOTS: tl.constexpr, RANGED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Some rows; found [6]: seen and count_range of the deviation, and of the variance that the neuron of 1/sqrt gets.

    The tables and FORM to SLOTS are that neuron's; the deviation's is an identity that keeps DEVIATION_BITS.
    """
    start = block_start(tl.program_id(0), ROWS)
    row = tl.arange(0, ROWS)
    present = row < tl.minimum(rows - start, ROWS).to(tl.int32)
    lane = tl.arange(0, COLUMNS)[None, :]
    inside = present[:, None] & (lane < columns)
    at = start * columns + row[:, None].to(tl.int64) * columns + lane
    x = read(inputs + at, inside, 0.0, DTYPE)
    if CENTERED:
        x = tl.where(inside, x - mean_of(x, columns)[:, None], 0.0)
    count_range(x, inside, of_deviation, deviation_low, deviation_high, most, found + 1, "float32")
    deviation = encode_identity(x, DEVIATION_BITS)
    variance = mean_of(deviation * deviation, columns) + eps
    count_range(variance, present, of_variance, variance_low, variance_high, most, found + 4, "float32")
    note(found, (tl.zeros([], tl.int64) + rows) * columns)
    note(found + 3, tl.zeros([], tl.int64) + rows)
    inverse = decode(
        variance, present, found, threshold, reset, intensity, weight, bias, offset, gain, breakpoints,
        FORM, KIND, POWER, ONE_SIDED, MIRRORED, OCTAVES, KEPT_BITS, T, N, BANKS, LEVELS, BINS, COUNTED, SLOTS,
    )  # fmt: skip
    y = deviation * inverse[:, None]
    if GAIN:
        y = y * tl.load(gains + lane, mask=lane < columns, other=0.0)
    if SHIFT:
        y = y + tl.load(shifts + lane, mask=lane < columns, other=0.0)
    write(outputs + at, y, inside, DTYPE)
