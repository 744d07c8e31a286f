"""The neuron as one operator of torch's: ``torch.ops.mbe_plugin.neuron``, which compilers keep whole and export.

Its kernels are those of the backends that compute a neuron in one call: on the CPU Numba's, on a CUDA GPU Triton's. The
backend 'torch' is made of torch's own operators, which a compiler follows by itself.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.errors import BackendError
from mbe_plugin.kernels import numba_cpu, triton_gpu
from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.backends import PLAIN

_SCHEMA = (
    "neuron(Tensor x, Tensor[] tables, str form, str reduction, bool mirrored, bool octaves, int kept_bits, "
    "Tensor? where, bool counted, str shared='', Tensor? exponents=None, int dim=-1, bool scores=False, "
    "Tensor? calibrated=None, float[]? accurate=None) -> (Tensor, Tensor, Tensor)"
)
_LIBRARY = torch.library.Library("mbe_plugin", "FRAGMENT")
_LIBRARY.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))

Found = tuple[Tensor, Tensor, Tensor]


def call(x: Tensor, *asked: Any) -> Found:
    """Decoded values as x [...]; the least and largest x, float32 [2], NaN where one is; counts, int64 [T * N + 1].

    On CUDA, where nobody waits to look at them, no ends: [0].

    asked: see Asked. counts: spikes per step and basis, then how many exponents were sent; [0] unless ``counted``.
    Raises BackendError without the library of x's device, and for what is counted on CUDA only.
    """
    given = Asked(*asked)
    if given.calibrated is not None and x.device.type != "cuda":
        raise BackendError("torch.ops.mbe_plugin.neuron counts what leaves a range on CUDA only")
    # a converted network's forward runs under a function mode, which every small call here would enter
    with torch._C.DisableTorchFunction():
        return _calls(x.device.type).neuron(x, given)


@cache
def _calls(device: str) -> ModuleType:
    reasons = (triton_gpu if device == "cuda" else numba_cpu).missing()
    if reasons:
        where = "CUDA" if device == "cuda" else "the CPU"
        raise BackendError(f"torch.ops.mbe_plugin.neuron cannot run on {where} here: {', '.join(reasons)}")
    if device == "cuda":
        from mbe_plugin.kernels.triton_gpu import calls as on_gpu

        return on_gpu
    from mbe_plugin.kernels.numba_cpu import calls

    return calls


def neuron(x: Tensor, asked: Asked) -> Found:
    """call(x, *asked), through torch's dispatcher where somebody looks on: a compiler, a transform, a mode."""
    if unwatched(x):
        return call(x, *asked)
    assert asked.counters is None
    values, ends, counts = _operator(x, *asked[:-1])
    # dynamo lets no attribute be set on one of several results, which a converted network marks
    return values.view_as(values) if torch.compiler.is_compiling() else values, ends, counts


def unwatched(x: Tensor) -> bool:
    """Whether no compiler, transform or mode looks on, so that a kernel may be called past torch's dispatcher."""
    # the dispatcher takes as long as the kernel for a thousand elements
    return (
        type(x) in PLAIN
        and (x.is_cpu or x.is_cuda)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _like(x: Tensor, *args: Any) -> Found:
    """The shapes of what comes back."""
    asked, out = Asked(*args), torch.empty_like(x)
    out = out.contiguous() if asked.in_order else out
    ends = x.new_empty(0 if x.is_cuda else 2, dtype=torch.float32)
    return out, ends, x.new_empty(asked.slots, dtype=torch.int64)


def _batched(info: object, in_dims: tuple, x: Tensor, *args: Any) -> tuple[Found, tuple[int | None, ...]]:
    """Under vmap a batch is another dimension. Raises BackendError where elements do not go one by one."""
    asked = Asked(*args)
    mapped = any(dim is not None for dim in [*in_dims[1], *in_dims[2:]] if not isinstance(dim, list | tuple))
    if mapped or asked.counted or asked.shared:
        raise BackendError(
            "under torch.vmap a neuron's kernel counts no events and maps no tables or scales; take backend='torch'"
        )
    return _operator(x, *args), (in_dims[0], None, None)


for _device in ("CPU", "CUDA"):
    _LIBRARY.impl("neuron", call, _device)
torch.library.register_fake("mbe_plugin::neuron", _like, lib=_LIBRARY)
torch.library.register_vmap("mbe_plugin::neuron", _batched, lib=_LIBRARY)
_operator = torch.ops.mbe_plugin.neuron.default
