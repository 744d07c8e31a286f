"""The backend 'cupy': the spikes of all T steps by one CUDA kernel, as users of SpikingJelly's CuPy backend know it.

``neuron.cuh`` is the dynamics of one element, ``kernel`` the class that makes CUDA kernels of it (the host's own CKernel2D
where the host has one, else that of ``base``), ``calls`` launches them and makes them one of torch's operators. CuPy is
imported and a kernel compiled when its first call comes, in each process anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DEVICE = "cuda"


def refusal(x: Tensor) -> str | None:
    """Why there is no kernel for this input, or None."""
    if x.device.type != DEVICE:
        return f"an input on {x.device}"
    return None if x.dtype in DTYPES else f"an input of {x.dtype}"
