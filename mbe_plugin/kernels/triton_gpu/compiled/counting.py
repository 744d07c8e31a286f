"""Events, and what leaves a range, added up in a few integers in the GPU's memory, which nothing waits for."""

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
def add_range(outside, beyond, lost, kept):
    """Add to two counters how many left a range, accuracy lost or kept."""
    if lost > 0:
        tl.atomic_add(outside, lost.to(tl.int64), sem="relaxed")
    if kept > 0:
        tl.atomic_add(beyond, kept.to(tl.int64), sem="relaxed")


@triton.jit
def add_once(place, number):
    """Add a number of the whole call to a counter: the first program does."""
    if tl.program_id(0) == 0:
        tl.atomic_add(place, number.to(tl.int64), sem="relaxed")


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
