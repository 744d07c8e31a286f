"""The backend 'numba': every neuron's decoded values and counts by one compiled kernel, on the CPU.

``compiled`` is the kernel's source, ``calls`` hands it a call, ``teams`` runs it on torch's threads. Numba is imported when
the first call comes; the kernel is compiled then, and kept on the disk (NUMBA_CACHE_DIR, or beside this file).
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from mbe_plugin.kernels.libraries import why_absent

INSTALL = "pip install 'mbe_plugin[fast]'"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def missing() -> list[str]:
    """What keeps the backend from running here; nothing where it can."""
    return why_absent("numba", "Numba", INSTALL)


def refusal(x: Tensor) -> str | None:
    """Why there is no kernel for this input, or None."""
    if not x.is_cpu:
        return f"an input on {x.device}"
    return None if x.dtype in DTYPES else f"an input of {x.dtype}"


@cache
def for_neurons() -> ModuleType:
    """How a neuron's call reaches its kernel; compiles it first, or loads it."""
    from mbe_plugin.kernels.numba_cpu import calls

    return calls


@cache
def for_rows() -> ModuleType:
    """The same of the kernels over rows."""
    from mbe_plugin.kernels.numba_cpu import row_calls

    return row_calls


def loaded() -> bool:
    """Whether the kernels are in this process."""
    return f"{__name__}.calls" in sys.modules and f"{__name__}.row_calls" in sys.modules


def load() -> None:
    """Load the kernels; the first time on a machine that compiles them."""
    for_neurons()
    for_rows()
