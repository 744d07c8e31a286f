"""Running a kernel on all of torch's threads: on its own OpenMP team, so that no second set of threads waits beside it.

Numba's own threads are a second OpenMP runtime in the process (torch brings its own copy of libgomp), whose threads spin
beside torch's, and Numba ends a forked process that uses them. Here a forked process can do what it can with torch's own
operators: run on one thread, as a DataLoader's workers do. Without GOMP_parallel in torch's runtime, Python's threads do
the work.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

ENOUGH = 1 << 14  # elements for a thread more
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)

Run = Callable[[int, int, int, int, int], None]  # as run()


def threads_for(size: int) -> int:
    """How many threads a call on this many elements takes; torch.set_num_threads sets the most."""
    return max(1, min(torch.get_num_threads(), size // ENOUGH))


def run(kernel: int, arguments: int, size: int, threads: int, together: int) -> None:
    """Call the kernel at an address for every element, by ``threads`` threads without Python's lock.

    arguments: their address. together: how many elements one after another a thread takes at least (a row, a block).
    """
    if threads == 1:
        _callable(kernel)(arguments, 0, size, 0)
    else:
        _runner()(kernel, arguments, size, threads, together)


@cache
def _callable(kernel: int) -> Callable[[int, int, int, int], None]:
    return KERNEL(kernel)


@cache
def _runner() -> Run:
    from mbe_plugin.kernels.numba_cpu.compiled import kernels

    try:
        library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))))
        parallel, number = library.GOMP_parallel, library.omp_get_thread_num
    except (AttributeError, OSError, StopIteration):
        return on_python_threads
    address, entry = ctypes.cast(number, ctypes.c_void_p).value, kernels.share.address
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def on_team(kernel: int, arguments: int, size: int, threads: int, together: int) -> None:
        task = np.array([kernel, arguments, size, threads, together, address], dtype=np.int64)
        parallel(entry, task.ctypes.data, threads, 0)

    return on_team


def on_python_threads(kernel: int, arguments: int, size: int, threads: int, together: int) -> None:
    """The same with threads of Python's, made for the call."""
    parts = -(-size // together)
    edges = [min(parts * i // threads * together, size) for i in range(threads + 1)]
    call = _callable(kernel)
    others = [
        threading.Thread(target=call, args=(arguments, edges[i], edges[i + 1], i)) for i in range(1, threads)
    ]
    for thread in others:
        thread.start()
    call(arguments, edges[0], edges[1], 0)
    for thread in others:
        thread.join()
