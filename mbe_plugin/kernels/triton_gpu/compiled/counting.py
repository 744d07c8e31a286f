"""Events and ends, added up in a few integers in the GPU's memory, which nothing waits for."""

from __future__ import annotations

import triton
import triton.language as tl

from mbe_plugin.kernels.triton_gpu.compiled.numbers import in_order, ordered

MOST_BINS = tl.constexpr(2048)  # of a histogram in a program's shared memory


@triton.jit
def count(place, what):
    """Add to one counter how many elements of the block are true."""
    found = tl.sum(tl.ravel(what.to(tl.int32)))
    if found > 0:  # most programs have nothing to say of a range
        tl.atomic_add(place, found.to(tl.int64), sem="relaxed")


@triton.jit
def count_keys(counters, key, what, KEYS: tl.constexpr, BINS: tl.constexpr):
    """Add up the elements that are true, each at its key of 0 .. KEYS - 1; BINS: a power of two above KEYS."""
    if BINS <= MOST_BINS:
        found = tl.histogram(tl.ravel(tl.where(what, key, KEYS), can_reorder=True), BINS)
        bins = tl.arange(0, BINS)
        filled = (bins < KEYS) & (found > 0)
        tl.atomic_add(counters + bins, found.to(tl.int64), mask=filled, sem="relaxed")
    else:
        tl.atomic_add(counters + key, what.to(tl.int64), mask=what, sem="relaxed")


@triton.jit
def count_spikes(counters, row, fired, BANKS: tl.constexpr, BASES: tl.constexpr, BINS: tl.constexpr):
    """Add up one step's spikes at their bases, counters [N]; row: of each element, or one of all."""
    if BANKS == 1:
        count(counters + row, fired)
    else:
        count_keys(counters, row, fired, BASES, BINS)


@triton.jit
def note_ends(keys, ends, high, low):
    """The largest and least integer in the order of the floats that a program has seen; the last program writes ends [2].

    keys [3]: the largest so far, the least from the other end, and how many programs have been here; 0 to begin with.
    """
    tl.atomic_max(keys, high.to(tl.int64) + 2147483648)
    tl.atomic_max(keys + 1, 2147483647 - low.to(tl.int64))
    before = tl.atomic_add(keys + 2, 1)
    if before == tl.num_programs(0) - 1:
        largest = in_order((tl.atomic_max(keys, 0) - 2147483648).to(tl.int32))
        least = in_order((2147483647 - tl.atomic_max(keys + 1, 0)).to(tl.int32))
        either = (largest != largest) | (least != least)
        tl.store(ends, tl.where(either, float("nan"), least))
        tl.store(ends + 1, tl.where(either, float("nan"), largest))


@triton.jit
def extremes(x, inside, NONE_HIGH: tl.constexpr, NONE_LOW: tl.constexpr):
    """The largest and the least of a block as integers in the order of the floats."""
    integer = ordered(x)
    high = tl.max(tl.ravel(tl.where(inside, integer, NONE_HIGH)), axis=0)
    return high, tl.min(tl.ravel(tl.where(inside, integer, NONE_LOW)), axis=0)
