"""A normalisation's call, and the end of an attention's, as their kernels take them."""

from __future__ import annotations

from array import array
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.numba_cpu import teams
from mbe_plugin.kernels.numba_cpu.calls import Words, float32_bits
from mbe_plugin.kernels.numba_cpu.compiled import kernels, rows
from mbe_plugin.kernels.numba_cpu.compiled import words as at
from mbe_plugin.kernels.numba_cpu.sums import lanes


def normalized(
    x: Tensor, columns: int, eps: float, centered: bool, gain: Tensor | None, shift: Tensor | None,
    deviation: Words, rsqrt: Words,
) -> tuple[Tensor, bool, bool] | None:  # fmt: skip
    """operators.normalization's result for the rows [columns] of x, contiguous float32; whether either neuron lost inputs.

    gain, shift [columns], of at most 32 bits. None where the kernel's order of summation is not torch's.
    """
    if not lanes(columns):
        return None
    out, first, second = torch.empty_like(x), deviation[:], rsqrt[:]
    gains, shifts = (p if p is None else p.float().contiguous() for p in (gain, shift))
    places = (0 if p is None else p.data_ptr() for p in (gains, shifts))
    what = lanes(columns), float32_bits(eps), centered, *places, rows.row_sum.address or 0
    _run(rows.normalize, first, second, x, out, columns, what)
    return out, first[at.LOST] != 0, second[at.LOST] != 0


def divided(x: Tensor, totals: Tensor, of_rows: Words | None, of_totals: Words) -> tuple[Tensor, bool, bool]:
    """The rows of x [..., C], encoded by a neuron if there is one, times another's reciprocals of the totals [..., 1].

    All contiguous float32; a row with the total 0 gives 0. Also whether either neuron lost inputs.
    """
    out, first, second = torch.empty_like(x), None if of_rows is None else of_rows[:], of_totals[:]
    _run(rows.divide, first, second, x, out, x.shape[-1], (totals.data_ptr(),))
    return out, first is not None and first[at.LOST] != 0, second[at.LOST] != 0


def _run(
    kernel: Any,
    first: Words | None,
    second: Words,
    x: Tensor,
    out: Tensor,
    columns: int,
    what: tuple[int, ...],
) -> None:
    threads, each = teams.threads_for(x.numel()), rows.room_for(columns)
    room = torch.empty(threads * each, dtype=torch.uint8)
    arguments = array("q", (
        kernels.neuron.address or 0, 0 if first is None else first.buffer_info()[0], second.buffer_info()[0],
        room.data_ptr(), each, x.data_ptr(), out.data_ptr(), columns, *what,
    ))  # fmt: skip
    teams.run(kernel.address, arguments.buffer_info()[0], x.numel() // columns, threads, 1)
