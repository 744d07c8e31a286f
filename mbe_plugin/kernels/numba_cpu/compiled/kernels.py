"""The kernels that others call, at their addresses: a neuron, what it does where that has no loop, and a thread's share.

Every operation is the torch path's own, in its order, in float32 and rounded once: no fast-math, no contraction.
"""

from __future__ import annotations

import numpy as np
from numba import types

from mbe_plugin.kernels.numba_cpu.compiled.blocks import by_blocks
from mbe_plugin.kernels.numba_cpu.compiled.lanes import available
from mbe_plugin.kernels.numba_cpu.compiled.machine import call_kernel, call_thread_number, kernel

if available():
    from mbe_plugin.kernels.numba_cpu.compiled.by_lanes import by_lanes as neuron
else:
    neuron = by_blocks


@kernel(types.void(types.CPointer(types.int64)))
def share(a):
    """One OpenMP thread's part: of [kernel, its arguments, size, threads, elements together, omp_get_thread_num]."""
    thread, parts = np.int64(call_thread_number(a[5])), (a[2] + a[4] - 1) // a[4]
    first = parts * thread // a[3] * a[4]
    last = min(parts * (thread + 1) // a[3] * a[4], a[2])
    if first < last:
        call_kernel(a[0], a[1], first, last, thread)
