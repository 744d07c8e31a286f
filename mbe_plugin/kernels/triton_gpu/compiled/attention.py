"""Attention in tiles of queries and keys; the scores are never stored.

Keys are passed twice: first for each row's largest score, then for the numerators below it. A shift that ran along with the
first pass would be exact for the numerators, which are powers of two times it, but not for the scores less it: their last
bits depend on the shift, and spikes on them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.counting import add_range, count, widened
from mbe_plugin.kernels.triton_gpu.compiled.decoding import encode_identity
from mbe_plugin.kernels.triton_gpu.compiled.kernels import (
    DEEPEST,
    count_range,
    decode,
    in_log2,
    leaving,
    limits_of,
)
from mbe_plugin.kernels.triton_gpu.compiled.numbers import (
    LEAST_INTEGER,
    bits_of,
    float_of,
    in_order,
    rank,
    read,
    whole_below,
    write,
)


@triton.jit
def tile(pointer, first, rows, width, of_row, DTYPE: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Rows from ``first`` of a matrix [rows, width], ``of_row`` elements apart, as float32; 0 beyond it."""
    row = first + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, WIDE)[None, :]
    return read(pointer + row.to(tl.int64) * of_row + lane, (row < rows) & (lane < width), 0.0, DTYPE)


@triton.jit
def scores_of(
    q, keys, mask, first_query, first_key, queries, all_keys, width, of_key, mask_query, mask_key, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """The masked scores [QUERIES, KEYS] and which of them there are; -infinity elsewhere."""
    k = tile(keys, first_key, all_keys, width, of_key, DTYPE, KEYS, WIDE)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    row = (first_query + tl.arange(0, QUERIES))[:, None]
    column = (first_key + tl.arange(0, KEYS))[None, :]
    inside = (row < queries) & (column < all_keys)
    if CAUSAL:
        scores = tl.where(column <= row, scores, -float("inf"))
    if MASK != "none":
        given = tl.load(
            mask + row.to(tl.int64) * mask_query + column.to(tl.int64) * mask_key, mask=inside, other=0
        )
        scores = tl.where(given != 0, scores, -float("inf")) if MASK == "bool" else scores + given
    return tl.where(inside, scores, -float("inf")), inside


@triton.jit
def weighted(weights, v, DTYPE: tl.constexpr):
    """weights @ v, float32; numbers of 16 bits are exact as tensor cores take them, and weights are two of such."""
    if DTYPE == "float32":
        return tl.dot(weights, v, input_precision="tf32x3")
    else:
        leading = float_of(bits_of(weights) & (-1 << 13))
        rest = tl.where(weights == weights, weights - leading, 0.0)
        return tl.dot(rest, v, input_precision="tf32") + tl.dot(leading, v, input_precision="tf32")


@triton.jit
def attend(
    query, keys, values, mask, outputs,
    e_threshold, e_reset, e_intensity, e_weight, e_bias, e_offset, e_gain, e_breakpoints,
    r_threshold, r_reset, r_intensity, r_weight, r_bias, r_offset, r_gain, r_breakpoints,
    found, e_range, e_low, e_high, r_range, r_low, r_high, w_range, w_low, w_high, m_range, m_low, m_high, most,
    scale, heads, queries, all_keys, width, value_width, query_batch, query_head, query_row, key_batch, key_head, key_row,
    value_batch, value_head, value_row, out_batch, out_head, out_row, mask_batch, mask_head, mask_query, mask_key,
    E_FORM: tl.constexpr, E_KIND: tl.constexpr, E_POWER: tl.constexpr, E_ONE_SIDED: tl.constexpr,
    E_MIRRORED: tl.constexpr, E_OCTAVES: tl.constexpr, E_KEPT_BITS: tl.constexpr, E_T: tl.constexpr, E_N: tl.constexpr,
    E_BANKS: tl.constexpr, E_LEVELS: tl.constexpr, E_BINS: tl.constexpr,
    R_FORM: tl.constexpr, R_KIND: tl.constexpr, R_POWER: tl.constexpr, R_ONE_SIDED: tl.constexpr,
    R_MIRRORED: tl.constexpr, R_OCTAVES: tl.constexpr, R_KEPT_BITS: tl.constexpr, R_T: tl.constexpr, R_N: tl.constexpr,
    R_BANKS: tl.constexpr, R_LEVELS: tl.constexpr, R_BINS: tl.constexpr,
    WEIGHT_BITS: tl.constexpr, MIXED_BITS: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, DTYPE: tl.constexpr,
    PRECISION: tl.constexpr, IN_PLACE: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDE: tl.constexpr,
    VALUE_WIDE: tl.constexpr,
):  # fmt: skip
    """Some queries of one head.

    found [12]: seen and count_range [2] of the neurons of 2^x, 1/sum, mixed and weights. E_ and R_ are the tables and
    constants of the first two; the others are identities that keep so many bits, the weights' 0 where there is none.
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

    highest = tl.zeros([QUERIES], tl.int32) + LEAST_INTEGER
    for key in range(0, stop, KEYS):
        scores, inside = scores_of(
            q, keys, mask, first, key, queries, all_keys, width, key_row, mask_query, mask_key, DTYPE, PRECISION, MASK,
            CAUSAL, QUERIES, KEYS, WIDE,
        )  # fmt: skip
        highest = tl.maximum(highest, tl.max(rank(scores), axis=1))
    shift = -whole_below(-in_log2(in_order(highest)))[:, None]

    low, high, least, greatest = limits_of(e_range, e_low, e_high, most)
    w_from, w_to, w_least, w_greatest = limits_of(w_range, w_low, w_high, most)
    # of each row, which costs less than a sum over a tile
    powers = tl.zeros([QUERIES], tl.int32)
    powers_left = tl.zeros([QUERIES], tl.int64)
    weights_left = tl.zeros([QUERIES], tl.int64)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, VALUE_WIDE], tl.float32)
    for key in range(0, stop, KEYS):
        scores, inside = scores_of(
            q, keys, mask, first, key, queries, all_keys, width, key_row, mask_query, mask_key, DTYPE, PRECISION, MASK,
            CAUSAL, QUERIES, KEYS, WIDE,
        )  # fmt: skip
        z = in_log2(scores) - shift
        sent = (z > DEEPEST) & (scores != -float("inf"))
        asked = sent | (z != z)
        z = tl.where(asked, z, 0.0)
        sent = sent & inside
        powers += tl.sum(sent.to(tl.int32), axis=1)
        powers_left += widened(tl.sum(leaving(z, sent, low, high, least, greatest, "float32"), axis=1))
        weights = decode(
            z, sent, found, e_threshold, e_reset, e_intensity, e_weight, e_bias, e_offset, e_gain, e_breakpoints,
            E_FORM, E_KIND, E_POWER, E_ONE_SIDED, E_MIRRORED, E_OCTAVES, E_KEPT_BITS, E_T, E_N, E_BANKS, E_LEVELS, E_BINS,
            False, 0, IN_PLACE,
        )  # fmt: skip
        weights = tl.where(asked & inside, weights, 0.0)
        if WEIGHT_BITS > 0:
            beyond = leaving(weights, inside, w_from, w_to, w_least, w_greatest, "float32")
            weights_left += widened(tl.sum(beyond, axis=1))
            weights = encode_identity(weights, WEIGHT_BITS)
        total += tl.sum(weights, axis=1)
        mixed += weighted(
            weights, tile(values, key, all_keys, value_width, value_row, DTYPE, KEYS, VALUE_WIDE), DTYPE
        )

    count(found, powers)
    add_range(found + 1, tl.sum(powers_left))
    if WEIGHT_BITS > 0:
        count(found + 9, present.to(tl.int32) * all_keys)
        add_range(found + 10, tl.sum(weights_left))
    empty = total == 0.0
    summed = tl.where(empty, 1.0, total)
    asked_sum = present & (total != 0.0)
    count(found + 3, asked_sum)
    count_range(summed, asked_sum, r_range, r_low, r_high, most, found + 4, "float32")
    inverse = decode(
        summed, asked_sum, found, r_threshold, r_reset, r_intensity, r_weight, r_bias, r_offset, r_gain, r_breakpoints,
        R_FORM, R_KIND, R_POWER, R_ONE_SIDED, R_MIRRORED, R_OCTAVES, R_KEPT_BITS, R_T, R_N, R_BANKS, R_LEVELS, R_BINS,
        False, 0,
    )  # fmt: skip
    inverse = tl.where(empty, 0.0, inverse)[:, None]
    lane = tl.arange(0, VALUE_WIDE)[None, :]
    there = present[:, None] & (lane < value_width)
    count(found + 6, there)
    count_range(mixed, there, m_range, m_low, m_high, most, found + 7, "float32")
    row = (first + tl.arange(0, QUERIES))[:, None].to(tl.int64)
    write(outputs + row * out_row + lane, encode_identity(mixed, MIXED_BITS) * inverse, there, DTYPE)
