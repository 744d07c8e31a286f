"""Events and ends, added up in a few integers in the GPU's memory, which nothing waits for."""

from __future__ import annotations

import triton
import triton.language as tl

MOST_BINS = tl.constexpr(2048)  # of a histogram in a program's shared memory


@triton.jit
def count(place, what):
    """Add to one counter how many elements of the block are true."""
    found = tl.sum(tl.ravel(what.to(tl.int32)))
    if found > 0:
        tl.atomic_add(place, found.to(tl.int64), sem="relaxed")


@triton.jit
def add_range(places, packed, ONCE: tl.constexpr):
    """Add to two counters, outside and beyond, what ``leaving`` gave of a block, ONCE or added up over blocks."""
    if ONCE:
        both = tl.sum(tl.ravel(packed))
        outside, beyond = both >> 16, both & 0xFFFF
    else:
        outside, beyond = tl.sum(tl.ravel(packed >> 16)), tl.sum(tl.ravel(packed & 0xFFFF))
    if outside + beyond > 0:  # most programs have nothing to say
        tl.atomic_add(places, outside.to(tl.int64), sem="relaxed")
        tl.atomic_add(places + 1, beyond.to(tl.int64), sem="relaxed")


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
