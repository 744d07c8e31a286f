"""The kernels as one operator of torch's, ``torch.ops.mbe_plugin.multi_step``, which compilers keep whole and export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.errors import BackendError
from mbe_plugin.neuron.scaling import KINDS, POWERS, REDUCTIONS
from mbe_plugin.neuron.tables import TABLE_FIELDS

_LIBRARY = torch.library.Library("mbe_plugin", "FRAGMENT")
_LIBRARY.define(
    "multi_step(Tensor x, Tensor[] tables, str output, str reduction, bool mirrored, bool octaves, bool halving, "
    "Tensor? where=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def run(
    x: Tensor,
    tables: Sequence[Tensor],
    output: str,
    reduction: str,
    mirrored: bool,
    octaves: bool,
    halving: bool,
    where: Tensor | None = None,
) -> Tensor:
    """What a neuron makes of the membranes x [...]; one launch, which nothing waits for.

    tables: in the order of TABLE_FIELDS. output: 'decoded' [...], the 'sequence' [T, ...] of weighted spikes or the
    'trains' [T, N, ...], in x's dtype, or 'counts', int64 [T * N + 1]: spikes of the elements in ``where`` (None: all),
    then exponents. halving: whether the tables are known to be those of the halving code.
    """
    from mbe_plugin.kernels.cupy_gpu import kernel  # imports the host's, and that CuPy

    y = empty(x, tables, output)
    kind, banks = REDUCTIONS[reduction], tables[4].numel()
    time_steps, bases = tables[0].shape
    scalars: dict[str, int | Tensor] = {
        "kind": KINDS.index(kind.kind),
        "power": POWERS.index(kind.power),
        "mirrored": mirrored,
        "octaves": octaves,
        "one_sided": kind.one_sided(mirrored),
        "halving": halving,
        "time_steps": time_steps,
        "bases": bases,
        "banks": banks,
        "per_bank": bases // banks,
    }
    named = {name: table.detach().contiguous() for name, table in zip(TABLE_FIELDS, tables, strict=True)}
    if output == "counts":
        y.zero_()
        scalars["where"] = 0 if where is None else where.expand(x.shape).contiguous()
    if output != "decoded":
        x = x.contiguous()
    elif x.stride() != y.stride():  # not dense: laid out as the output is
        x = torch.empty_like(y).copy_(x)
    kernel.kernel_of(output, x.dtype).simple_call(x=x, y=y, **named, **scalars)
    return y


def empty(x: Tensor, tables: Sequence[Tensor], output: str, *rest: object) -> Tensor:
    """What run writes, unwritten."""
    time_steps, bases = tables[0].shape
    if output == "decoded":
        return torch.empty_like(x)
    if output == "counts":
        return x.new_empty(time_steps * bases + 1, dtype=torch.int64)
    return x.new_empty((time_steps, *([bases] if output == "trains" else []), *x.shape))


def _batched(info: object, in_dims: tuple, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
    """Under vmap a batch is another dimension. Raises BackendError where elements do not go one by one."""
    output = rest[1]
    if output == "counts" or any(dim is not None for dim in [*in_dims[1], *in_dims[2:]]):
        raise BackendError(
            "under torch.vmap backend 'cupy' counts no events and maps no tables; take backend='torch'"
        )
    before = {"decoded": 0, "sequence": 1, "trains": 2}[output]
    return multi_step(x, *rest), in_dims[0] + before


_LIBRARY.impl("multi_step", run, "CUDA")
torch.library.register_fake("mbe_plugin::multi_step", empty, lib=_LIBRARY)
torch.library.register_vmap("mbe_plugin::multi_step", _batched, lib=_LIBRARY)
multi_step = torch.ops.mbe_plugin.multi_step.default
