"""LayerNorm and RMSNorm in one pass: the deviation's neuron, the squares, their mean, the neuron of 1/sqrt, the product."""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.counting import add_once
from mbe_plugin.kernels.triton_gpu.compiled.decoding import encode_identity
from mbe_plugin.kernels.triton_gpu.compiled.kernels import count_range, decode
from mbe_plugin.kernels.triton_gpu.compiled.numbers import block_start, read, write


@triton.jit
def mean_of(x, columns):
    """The mean of each row, whose other places hold 0."""
    total = tl.sum(x, axis=1)
    return tl.div_rn(total, tl.zeros_like(total) + columns)


@triton.jit
def normalize(
    inputs, outputs, gains, shifts, threshold, reset, intensity, weight, bias, offset, gain, breakpoints,
    deviation_seen, deviation_outside, deviation_beyond, variance_seen, variance_outside, variance_beyond,
    of_deviation, deviation_low, deviation_high, of_variance, variance_low, variance_high, most, rows, columns, eps,
    DTYPE: tl.constexpr, PARAMETERS: tl.constexpr, CENTERED: tl.constexpr, GAIN: tl.constexpr, SHIFT: tl.constexpr,
    DEVIATION_BITS: tl.constexpr, FORM: tl.constexpr, KIND: tl.constexpr, POWER: tl.constexpr, ONE_SIDED: tl.constexpr,
    MIRRORED: tl.constexpr, OCTAVES: tl.constexpr, KEPT_BITS: tl.constexpr, T: tl.constexpr, N: tl.constexpr,
    BANKS: tl.constexpr, LEVELS: tl.constexpr, BINS: tl.constexpr, COUNTED: tl.constexpr,
    SLOTS: tl.constexpr, RANGED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Some rows, with gains and shifts of the dtype PARAMETERS; counters of the deviation's neuron, and of the other.

    The other gets the variance: the tables and FORM to RANGED are its; the deviation's is an identity that keeps
    DEVIATION_BITS.
    """
    start = block_start(tl.program_id(0), ROWS)
    row = tl.arange(0, ROWS)
    present = row < tl.minimum(rows - start, ROWS).to(tl.int32)
    lane = tl.arange(0, COLUMNS)[None, :]
    inside = present[:, None] & (lane < columns)
    at = start * columns + row[:, None].to(tl.int64) * columns + lane
    x = read(inputs + at, inside, DTYPE)
    if CENTERED:
        x = tl.where(inside, x - mean_of(x, columns)[:, None], 0.0)
    count_range(
        x,
        inside,
        of_deviation,
        deviation_low,
        deviation_high,
        most,
        deviation_outside,
        deviation_beyond,
        "float32",
    )
    deviation = encode_identity(x, DEVIATION_BITS)
    variance = mean_of(deviation * deviation, columns) + eps
    count_range(
        variance,
        present,
        of_variance,
        variance_low,
        variance_high,
        most,
        variance_outside,
        variance_beyond,
        "float32",
    )
    add_once(deviation_seen, (tl.zeros([], tl.int64) + rows) * columns)
    add_once(variance_seen, tl.zeros([], tl.int64) + rows)
    inverse = decode(
        variance, present, variance_seen, threshold, reset, intensity, weight, bias, offset, gain, breakpoints, breakpoints,
        FORM, KIND, POWER, ONE_SIDED, MIRRORED, OCTAVES, KEPT_BITS, T, N, BANKS, LEVELS, BINS, 0, COUNTED, SLOTS, PTX,
    )  # fmt: skip
    y = deviation * inverse[:, None]
    if GAIN:
        y = y * read(gains + lane, lane < columns, PARAMETERS)
    if SHIFT:
        y = y + read(shifts + lane, lane < columns, PARAMETERS)
    write(outputs + at, y, inside, DTYPE, PTX)
