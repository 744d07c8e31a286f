"""A neuron's call as the kernel takes it: numbers and addresses in one array of int64."""

from __future__ import annotations

from array import array
from math import prod

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.numba_cpu import DTYPES, compiled, teams
from mbe_plugin.neuron.scaling import KINDS, POWERS, REDUCTIONS

# compiled's numbers for them
FORM = {name: number for number, name in enumerate(("identity", "first_spike", "closed", "steps"))}
KIND = {name: number for number, name in enumerate(KINDS)}
POWER = {power: number for number, power in enumerate(POWERS)}
SHARED = {name: number for number, name in enumerate(("", "tensor", "channel", "token"))}
DTYPE = {dtype: number for number, dtype in enumerate(DTYPES)}


def neuron(x: Tensor, asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
    """operator.call on the CPU; float32, bfloat16 or float16."""
    out, x, where = asked.laid_out(x)
    exponents = None if asked.exponents is None else asked.exponents.contiguous()
    tables = [table if table.is_contiguous() else table.contiguous() for table in asked.tables]
    time_steps, bases = tables[0].shape
    kind = REDUCTIONS[asked.reduction]
    threads = teams.threads_for(x.numel())
    ends = torch.empty(threads, 2)
    row = x.shape[-1] if asked.scores else 0
    counts = torch.zeros(threads, asked.slots, dtype=torch.int64)
    arguments = array("q", (
        x.data_ptr(), out.data_ptr(), DTYPE[x.dtype], 0 if where is None else where.data_ptr(), counts.data_ptr(),
        counts.shape[1], ends.data_ptr(), FORM[asked.form], KIND[kind.kind], POWER[kind.power],
        asked.mirrored, asked.octaves, kind.one_sided(asked.mirrored), asked.kept_bits,
        time_steps, bases, tables[4].numel(),
        *(table.data_ptr() for table in tables), SHARED[asked.shared],
        0 if exponents is None else exponents.data_ptr(), prod(x.shape[asked.dim :][1:]) if exponents is not None else 1,
        x.shape[asked.dim] if x.dim() else 1, row,
    ))  # fmt: skip
    teams.run(
        compiled.neuron.address or 0, arguments.buffer_info()[0], x.numel(), threads, row or compiled.BLOCK
    )
    if threads == 1:
        return out, ends.view(2), counts.view(-1)
    return out, torch.stack([ends[:, 0].amin(), ends[:, 1].amax()]), counts.sum(0)
