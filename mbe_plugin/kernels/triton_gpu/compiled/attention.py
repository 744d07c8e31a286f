"""Attention in tiles of queries and keys; the scores are never stored.

Keys are passed twice: first for each row's largest score, then for the numerators below it. A shift that ran along with the
first pass would be exact for the numerators, which are powers of two times it, but not for the scores less it: their last
bits depend on the shift, and spikes on them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.counting import add_range, count
from mbe_plugin.kernels.triton_gpu.compiled.decoding import decode_by_cells, encode_identity
from mbe_plugin.kernels.triton_gpu.compiled.kernels import (
    DEEPEST,
    count_range,
    decode,
    in_log2,
    is_outside,
    limits_of,
)
from mbe_plugin.kernels.triton_gpu.compiled.numbers import (
    SIGNED,
    at_least,
    bits_of,
    float_of,
    in_order,
    rank,
    read,
    rounded_down,
    whole_below,
    write,
)


@triton.jit
def tile(pointer, first, rows, width, of_row, DTYPE: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Rows from ``first`` of a matrix [rows, width], ``of_row`` elements apart, as float32; 0 beyond it."""
    row = first + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, WIDE)[None, :]
    return read(pointer + row.to(tl.int64) * of_row + lane, (row < rows) & (lane < width), DTYPE)


@triton.jit
def scores_of(
    q, keys, mask, first_query, first_key, queries, all_keys, width, of_key, mask_query, mask_key, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """The masked scores [QUERIES, KEYS], -infinity beyond the keys; anything beyond the queries."""
    k = tile(keys, first_key, all_keys, width, of_key, DTYPE, KEYS, WIDE)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    row = (first_query + tl.arange(0, QUERIES))[:, None]
    column = (first_key + tl.arange(0, KEYS))[None, :]
    if CAUSAL:
        scores = tl.where(column <= row, scores, -float("inf"))
    if MASK != "none":
        inside = (row < queries) & (column < all_keys)
        given = tl.load(
            mask + row.to(tl.int64) * mask_query + column.to(tl.int64) * mask_key, mask=inside, other=0
        )
        scores = tl.where(given != 0, scores, -float("inf")) if MASK == "bool" else scores + given
    return tl.where(column < all_keys, scores, -float("inf"))


@triton.jit
def power_by_cells(
    z,
    asked,
    breakpoints,
    cell_tables,
    T: tl.constexpr,
    N: tl.constexpr,
    CELLS: tl.constexpr,
    PTX: tl.constexpr,
):
    """decode() of a neuron of 2^x with the reduction 'fraction', for z from -126 to 0 or NaN; 0 where not asked."""
    raised = rounded_down(z, SIGNED, PTX)
    power = float_of(tl.where(asked, (bits_of(raised) << 23) + (127 << 23), 0))
    reduced = z - (raised - SIGNED)
    y = decode_by_cells(
        reduced, z == z, cell_tables, breakpoints, cell_tables, False, False, T, N, N, False, 0, CELLS, PTX
    )
    return y * power  # as exact as y: it is normal


@triton.jit
def weighted(weights, v, DTYPE: tl.constexpr):
    """weights @ v, float32; numbers of 16 bits are exact as tensor cores take them, and weights are two of such."""
    if DTYPE == "float32":
        return tl.dot(weights, v, input_precision="tf32x3")
    else:
        leading = float_of(bits_of(weights) & (-1 << 13))
        rest = tl.dot(weights - leading, v, input_precision="tf32")
        return rest + tl.dot(leading, v, input_precision="tf32")


@triton.jit
def leaving_in_parts(x, asked, low, high, least, greatest, NEVER_OUTSIDE: tl.constexpr):
    """1 for who is asked, 2^10 more for what CalibratedNode.count_range counts as beyond, 2^20 for what is outside."""
    left = is_outside(x, low, high, "float32")
    if NEVER_OUTSIDE:
        return tl.where(asked, tl.where(left, (1 << 10) + 1, 1), 0)
    else:
        lost = is_outside(x, least, greatest, "float32")
        return tl.where(asked, tl.where(left, tl.where(lost, (1 << 20) + 1, (1 << 10) + 1), 1), 0)


@triton.jit
def add_rows(seen, outside, beyond, present, asked, lost, kept):
    """Add to a neuron's counters what has been counted of each row that is present."""
    count(seen, tl.where(present, asked, 0))
    lost, kept = (tl.where(present, lost, 0).to(tl.int64), tl.where(present, kept, 0).to(tl.int64))
    add_range(outside, beyond, tl.sum(lost), tl.sum(kept))


@triton.jit
def attend(
    query, keys, values, mask, outputs,
    e_threshold, e_reset, e_intensity, e_weight, e_bias, e_offset, e_gain, e_breakpoints, e_cell_tables,
    r_threshold, r_reset, r_intensity, r_weight, r_bias, r_offset, r_gain, r_breakpoints,
    e_seen, e_outside, e_beyond, r_seen, r_outside, r_beyond, w_seen, w_outside, w_beyond, m_seen, m_outside, m_beyond,
    e_range, e_low, e_high, r_range, r_low, r_high, w_range, w_low, w_high, m_range, m_low, m_high, most,
    scale, heads, queries, all_keys, width, value_width, query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, out_batch, out_head, out_row, mask_batch, mask_head, mask_query, mask_key,
    E_FORM: tl.constexpr, E_KIND: tl.constexpr, E_POWER: tl.constexpr, E_ONE_SIDED: tl.constexpr,
    E_MIRRORED: tl.constexpr, E_OCTAVES: tl.constexpr, E_KEPT_BITS: tl.constexpr, E_T: tl.constexpr, E_N: tl.constexpr,
    E_BANKS: tl.constexpr, E_LEVELS: tl.constexpr, E_BINS: tl.constexpr, E_CELLS: tl.constexpr,
    R_FORM: tl.constexpr, R_KIND: tl.constexpr, R_POWER: tl.constexpr, R_ONE_SIDED: tl.constexpr,
    R_MIRRORED: tl.constexpr, R_OCTAVES: tl.constexpr, R_KEPT_BITS: tl.constexpr, R_T: tl.constexpr, R_N: tl.constexpr,
    R_BANKS: tl.constexpr, R_LEVELS: tl.constexpr, R_BINS: tl.constexpr,
    WEIGHT_BITS: tl.constexpr, MIXED_BITS: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, PTX: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDE: tl.constexpr,
    VALUE_WIDE: tl.constexpr,
):  # fmt: skip
    """Some queries of one head.

    E_ and R_ are the tables and constants of the neurons of 2^x and 1/sum; w_ and m_, of the weights and of mixed, are
    identities that keep so many bits, the weights' 0 where there is none. seen, outside, beyond: the counters of each.
    """
    blocks = tl.cdiv(queries, QUERIES)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = head // heads, head % heads
    first = (tl.program_id(0) % blocks) * QUERIES
    query += batch * query_batch + head * query_head
    keys += batch * key_batch + head * key_head
    values += batch * value_batch + head * value_head
    mask += batch * mask_batch + head * mask_head
    outputs += batch * out_batch + head * out_head
    q = tile(query, first, queries, width, query_row, DTYPE, QUERIES, WIDE) * scale
    present = first + tl.arange(0, QUERIES) < queries
    stop = all_keys
    if CAUSAL and WEIGHT_BITS == 0:  # behind lie zeros only, which nothing counts
        stop = tl.minimum(all_keys, first + QUERIES)

    highest = tl.zeros([QUERIES, KEYS], tl.float32) - float("inf")
    for key in range(0, stop, KEYS):
        scores = scores_of(
            q, keys, mask, first, key, queries, all_keys, width, key_row, mask_query, mask_key, DTYPE, PRECISION, MASK,
            CAUSAL, QUERIES, KEYS, WIDE,
        )  # fmt: skip
        highest = at_least(scores, highest)
    shift = -whole_below(-in_log2(in_order(tl.max(rank(highest), axis=1))))[:, None]

    low, high, least, greatest = limits_of(e_range, e_low, e_high, most)
    w_from, w_to, w_least, w_greatest = limits_of(w_range, w_low, w_high, most)
    # of each row, which costs less than a sum over a tile
    powers = tl.zeros([QUERIES], tl.int32)
    powers_beyond = tl.zeros([QUERIES], tl.int32)
    powers_outside = tl.zeros([QUERIES], tl.int32)
    weights_beyond = tl.zeros([QUERIES], tl.int32)
    weights_outside = tl.zeros([QUERIES], tl.int32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, VALUE_WIDE], tl.float32)
    for key in range(0, stop, KEYS):
        scores = scores_of(
            q, keys, mask, first, key, queries, all_keys, width, key_row, mask_query, mask_key, DTYPE, PRECISION, MASK,
            CAUSAL, QUERIES, KEYS, WIDE,
        )  # fmt: skip
        z = at_least(in_log2(scores) - shift, DEEPEST - 1.0)
        sent = (z > DEEPEST) & (scores != -float("inf"))
        asked = sent | (z != z)
        found = tl.sum(leaving_in_parts(z, sent, low, high, least, greatest, E_KIND == "fraction"), axis=1)
        powers += found & 0x3FF
        powers_beyond += (found >> 10) & 0x3FF
        powers_outside += found >> 20
        if E_CELLS > 0 and E_KIND == "fraction":
            weights = power_by_cells(z, asked, e_breakpoints, e_cell_tables, E_T, E_N, E_CELLS, PTX)
        else:
            z = tl.where(asked, z, 0.0)
            weights = decode(
                z, sent, e_seen, e_threshold, e_reset, e_intensity, e_weight, e_bias, e_offset, e_gain, e_breakpoints,
                e_cell_tables, E_FORM, E_KIND, E_POWER, E_ONE_SIDED, E_MIRRORED, E_OCTAVES, E_KEPT_BITS, E_T, E_N, E_BANKS,
                E_LEVELS, E_BINS, E_CELLS, False, 0, PTX,
            )  # fmt: skip
            weights = tl.where(asked, weights, 0.0)
        if WEIGHT_BITS > 0:
            inside = (key + tl.arange(0, KEYS) < all_keys)[None, :]
            found = tl.sum(
                leaving_in_parts(weights, inside, w_from, w_to, w_least, w_greatest, False), axis=1
            )
            weights_beyond += (found >> 10) & 0x3FF
            weights_outside += found >> 20
            weights = encode_identity(weights, WEIGHT_BITS)
        total += tl.sum(weights, axis=1)
        mixed += weighted(
            weights, tile(values, key, all_keys, value_width, value_row, DTYPE, KEYS, VALUE_WIDE), DTYPE
        )

    add_rows(e_seen, e_outside, e_beyond, present, powers, powers_outside, powers_beyond)
    if WEIGHT_BITS > 0:
        all_weights = tl.zeros([QUERIES], tl.int32) + all_keys
        add_rows(w_seen, w_outside, w_beyond, present, all_weights, weights_outside, weights_beyond)
    empty = total == 0.0
    summed = tl.where(empty, 1.0, total)
    asked_sum = present & (total != 0.0)
    count(r_seen, asked_sum)
    count_range(summed, asked_sum, r_range, r_low, r_high, most, r_outside, r_beyond, "float32")
    inverse = decode(
        summed, asked_sum, r_seen, r_threshold, r_reset, r_intensity, r_weight, r_bias, r_offset, r_gain, r_breakpoints,
        r_breakpoints, R_FORM, R_KIND, R_POWER, R_ONE_SIDED, R_MIRRORED, R_OCTAVES, R_KEPT_BITS, R_T, R_N, R_BANKS,
        R_LEVELS, R_BINS, 0, False, 0, False,
    )  # fmt: skip
    inverse = tl.where(empty, 0.0, inverse)[:, None]
    lane = tl.arange(0, VALUE_WIDE)[None, :]
    there = present[:, None] & (lane < value_width)
    count(m_seen, there)
    count_range(mixed, there, m_range, m_low, m_high, most, m_outside, m_beyond, "float32")
    row = (first + tl.arange(0, QUERIES))[:, None].to(tl.int64)
    write(outputs + row * out_row + lane, encode_identity(mixed, MIXED_BITS) * inverse, there, DTYPE, PTX)
