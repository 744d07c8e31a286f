"""The neuron as one operator of torch's: ``torch.ops.mbe_plugin.neuron``, which compilers keep whole and export.

Its kernels are those of the backends that compute a neuron in one call; on the CPU Numba's. The backend 'torch' is made of
torch's own operators, which a compiler follows by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.errors import BackendError
from mbe_plugin.kernels import numba_cpu

_SCHEMA = (
    "neuron(Tensor x, Tensor[] tables, str form, str reduction, bool mirrored, bool octaves, int kept_bits, "
    "Tensor? where, bool counted, str shared='', Tensor? exponents=None, int dim=-1, bool scores=False) "
    "-> (Tensor, Tensor, Tensor)"
)
_LIBRARY = torch.library.Library("mbe_plugin", "FRAGMENT")
_LIBRARY.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))

Found = tuple[Tensor, Tensor, Tensor]


def call(
    x: Tensor,
    tables: Sequence[Tensor],
    form: str,
    reduction: str,
    mirrored: bool,
    octaves: bool,
    kept_bits: int,
    where: Tensor | None,
    counted: bool,
    shared: str = "",
    exponents: Tensor | None = None,
    dim: int = -1,
    scores: bool = False,
) -> Found:
    """Decoded values as x [...]; the least and largest x, float32 [2], NaN where one is; counts, int64 [T * N + 1].

    tables: in the order of TABLE_FIELDS. form: 'identity' (closed.encode_identity with kept_bits), 'first_spike' (kept_bits
    choose the basis), 'closed' or 'steps'. reduction: its name. where: what is counted (None: all). counts: spikes per step
    and basis, then how many exponents were sent; [0] unless ``counted``. shared: who has one of the power-of-two scales 2^
    exponents (int32) in common, '' (nobody), 'tensor' (one), 'channel' (one per entry of dim; then the ends are of the
    scaled x) or 'token' (one per entry of the others). scores: x, contiguous float32, are those of a softmax over the last
    dimension and the neuron is 2^x; the values are the numerators, the ends the powers', counts [1] how many are sent.
    Raises BackendError without Numba.
    """
    if reasons := numba_cpu.missing():
        raise BackendError(f"torch.ops.mbe_plugin.neuron cannot run on the CPU here: {', '.join(reasons)}")
    from mbe_plugin.kernels.numba_cpu import calls

    return calls.neuron(
        x,
        tables,
        form,
        reduction,
        mirrored,
        octaves,
        kept_bits,
        where,
        counted,
        shared,
        exponents,
        dim,
        scores,
    )


def neuron(x: Tensor, *args: Any) -> Found:
    """call(x, ...), through torch's dispatcher where somebody looks on: a compiler, a transform, a mode."""
    if _unwatched(x):
        return call(x, *args)
    values, ends, counts = _operator(x, *args)
    # dynamo lets no attribute be set on one of several results, which a converted network marks
    return values.view_as(values) if torch.compiler.is_compiling() else values, ends, counts


def _unwatched(x: Tensor) -> bool:
    # the dispatcher takes as long as the kernel for a thousand elements
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )


def _like(
    x: Tensor,
    tables: Sequence[Tensor],
    form: str,
    reduction: str,
    mirrored: bool,
    octaves: bool,
    kept_bits: int,
    where: Tensor | None,
    counted: bool,
    shared: str = "",
    exponents: Tensor | None = None,
    dim: int = -1,
    scores: bool = False,
) -> Found:
    """The shapes of what comes back."""
    out = torch.empty_like(x) if exponents is None and not scores else torch.empty_like(x).contiguous()
    slots = tables[0].numel() + 1 if counted else int(scores)
    return out, x.new_empty(2, dtype=torch.float32), x.new_empty(slots, dtype=torch.int64)


def _batched(info: object, in_dims: tuple, x: Tensor, *args: Any) -> tuple[Found, tuple[int | None, ...]]:
    """Under vmap a batch is another dimension. Raises BackendError where elements do not go one by one."""
    if any(dim is not None for dim in [*in_dims[1], *in_dims[2:]]) or any(args[7:9]):
        raise BackendError(
            "under torch.vmap backend 'numba' counts no events and maps no tables or scales; take backend='torch'"
        )
    return _operator(x, *args), (in_dims[0], None, None)


_LIBRARY.impl("neuron", call, "CPU")
torch.library.register_fake("mbe_plugin::neuron", _like, lib=_LIBRARY)
torch.library.register_vmap("mbe_plugin::neuron", _batched, lib=_LIBRARY)
_operator = torch.ops.mbe_plugin.neuron.default
