"""Resident memory of this process and its peak (Linux)."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ALLOCATOR = "MALLOC_MMAP_THRESHOLD_"
THRESHOLD = "131072"  # bytes; with it glibc keeps no large blocks, and a peak is what was alive


def elsewhere(function: Callable[..., Any], *arguments: Any, giving_back: bool = False) -> Any:
    """The function's result, from a process of its own; both must be importable. giving_back: by THRESHOLD."""
    with mock.patch.dict(os.environ):
        os.environ.pop(ALLOCATOR, None)
        if giving_back:
            os.environ[ALLOCATOR] = THRESHOLD
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(function, arguments)


def reset_peak() -> int:
    """Give freed memory back, forget the peak so far, and return the resident size, KiB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The largest resident size since the process began or reset_peak(), KiB."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
