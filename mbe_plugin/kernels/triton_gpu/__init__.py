"""The backend 'triton': every neuron's decoded values and counts by one kernel, on a CUDA GPU.

``compiled.kernels`` has the two kernels (elements, and a softmax's rows), made of the stages beside it; ``calls`` hands
them a call. Triton is imported when the first call comes; a kernel is
compiled for each kind of neuron then, and kept on the disk by Triton. Every operation is the torch path's own, in its
order, in float32 and rounded once: multiplications and additions are never fused, and nothing is approximated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.kernels.libraries import why_absent, without_gpu

INSTALL = "pip install triton"
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
LEAST_CAPABILITY = (8, 0)  # what the kernels are compiled for in the tests


def missing() -> list[str]:
    """What keeps the backend from running here; nothing where it can."""
    reasons = [*why_absent("triton", "Triton", INSTALL), *without_gpu()]
    if torch.cuda.is_available() and torch.version.hip:
        reasons.append(
            f"this is a ROCm build of torch ({torch.version.hip}), and the kernels are for NVIDIA's GPUs"
        )
    return reasons


def refusal(x: Tensor) -> str | None:
    """Why there is no kernel for this input, or None."""
    if x.device.type != "cuda":
        return f"an input on {x.device}"
    if (capability := torch.cuda.get_device_capability(x.device)) < LEAST_CAPABILITY:
        return (
            f"an input on {x.device}, whose compute capability is {capability[0]}.{capability[1]} and not 8.0"
        )
    return None if x.dtype in DTYPES else f"an input of {x.dtype}"
