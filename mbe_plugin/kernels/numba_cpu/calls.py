"""A neuron's call as the kernel takes it: numbers and addresses in one array of int64."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import cache
from math import inf, prod

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked, laid_out
from mbe_plugin.kernels.numba_cpu import DTYPES, teams
from mbe_plugin.kernels.numba_cpu.compiled import kernels
from mbe_plugin.kernels.numba_cpu.compiled import words as at
from mbe_plugin.kernels.numba_cpu.compiled.numbers import BLOCK
from mbe_plugin.kernels.numba_cpu.compiled.tables16 import by_table
from mbe_plugin.neuron.scaling import KINDS, POWERS, REDUCTIONS

# compiled.words' numbers for them
FORM = {name: number for number, name in enumerate(("identity", "first_spike", "closed", "steps"))}
KIND = {name: number for number, name in enumerate(KINDS)}
POWER = {power: number for number, power in enumerate(POWERS)}
SHARED = {name: number for number, name in enumerate(("", "tensor", "channel", "token"))}
DTYPE = {dtype: number for number, dtype in enumerate(DTYPES)}

Words = array  # of int64, by compiled.words.ARGUMENTS
NOWHERE = (inf, -inf)  # no range of accuracy beside the calibrated one
TABLE_FROM = (
    1 << 18
)  # elements of 16 bits from which on all 2^16 numbers are computed first, and then looked up


def words_of(asked: Asked, counters: Sequence[Tensor] = ()) -> Words:
    """What the kernel is told of a neuron, but for its input: room for one call's, whose tables are contiguous.

    counters: ``seen``, ``outside`` and ``beyond``, int64 [], to which it adds what it counts of ``asked.calibrated``.
    """
    kind = REDUCTIONS[asked.reduction]
    time_steps, bases = asked.tables[0].shape
    low, high = map(float32_bits, asked.accurate or NOWHERE)
    return array("q", (
        0, 0, 0, 0, 0, 0, 0, FORM[asked.form], KIND[kind.kind], POWER[kind.power],
        asked.mirrored, asked.octaves, kind.one_sided(asked.mirrored), asked.kept_bits,
        time_steps, bases, asked.tables[4].numel(), *(table.data_ptr() for table in asked.tables), 0, 0, 1, 1, 0,
        asked.calibrated.data_ptr() if counters and asked.calibrated is not None else 0, low, high,
        *(counter.data_ptr() for counter in counters or asked.tables[:3]), 0, 0, 0, 0,
        kernels.by_blocks.address or 0,
    ))  # fmt: skip


def float32_bits(number: float) -> int:
    """A number as the integer that has the bits of the nearest float32."""
    return struct.unpack("i", struct.pack("f", number))[0]


def neuron(x: Tensor, asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
    """operator.call on the CPU; float32, bfloat16 or float16."""
    out, x, where = asked.laid_out(x)
    exponents = None if asked.exponents is None else asked.exponents.contiguous()
    tables = [table if table.is_contiguous() else table.contiguous() for table in asked.tables]
    threads = teams.threads_for(x.numel())
    ends = torch.empty(threads, 2)
    row = x.shape[-1] if asked.scores else 0
    counts = torch.zeros(threads, asked.slots, dtype=torch.int64)
    words = words_of(asked._replace(tables=tables))
    words[at.COUNTS], words[at.SLOTS] = counts.data_ptr(), counts.shape[1]
    words[at.ENDS], words[at.SHARED] = ends.data_ptr(), SHARED[asked.shared]
    if exponents is not None:
        words[at.EXPONENTS], words[at.INNER] = (
            exponents.data_ptr(),
            prod(x.shape[asked.dim :][1:]),
        )
    words[at.ALONG] = x.shape[asked.dim] if x.dim() else 1
    table = None if asked.slots or asked.shared else table_of(words, x)
    _run(words, x, out, where, threads, row, table)
    if threads == 1:
        return out, ends.view(2), counts.view(-1)
    return out, torch.stack([ends[:, 0].amin(), ends[:, 1].amax()]), counts.sum(0)


def recorded(words: Words, counts: Tensor, tally: Tensor) -> Words:
    """The same words, with which a kernel also adds to a recording's counts [T, N] and tally [3]; see NeuronEvents."""
    told = words[:]
    told[at.SPIKES], told[at.TALLY] = counts.data_ptr(), tally.data_ptr()
    return told


def counted(words: Words, x: Tensor, where: Tensor | None, scores: bool = False) -> tuple[Tensor, bool]:
    """Decoded values of x by a neuron whose counters are among its words, and whether inputs were lost.

    x, where: as Asked has them; scores: as there. The words stay as they are, for calls in other threads.
    """
    out, x, where = laid_out(x, where, in_order=scores)
    told = words[:]
    table = None if scores or where is not None or words[at.SPIKES] else table_of(words, x)
    _run(told, x, out, where, teams.threads_for(x.numel()), x.shape[-1] if scores else 0, table)
    return out, told[at.LOST] != 0


def table_of(words: Words, x: Tensor) -> Tensor | None:
    """What a neuron makes of every number of x's 16 bits, where that costs less than to compute it of x; else None.

    Made in every call, since numbers in the neuron's tables may change.
    """
    if x.dtype == torch.float32 or x.numel() < TABLE_FROM:
        return None
    every = every_number(x.dtype)
    table, threads = torch.empty_like(every), teams.threads_for(every.numel())
    told, ends = words[:], torch.empty(threads, 2)
    told[at.CALIBRATED], told[at.ENDS] = 0, ends.data_ptr()
    _run(told, every, table, None, threads, 0)
    return table


@cache
def every_number(dtype: torch.dtype) -> Tensor:
    """Every number of 16 bits, in the order of the bits as a whole number without sign."""
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)


def _run(
    words: Words, x: Tensor, out: Tensor, where: Tensor | None, threads: int, row: int, table: Tensor | None = None
) -> None:  # fmt: skip
    words[at.INPUT], words[at.OUTPUT] = x.data_ptr(), out.data_ptr()
    words[at.DTYPE], words[at.SCORES] = DTYPE[x.dtype], row
    if where is not None:
        words[at.WHERE] = where.data_ptr()
    kernel = kernels.neuron if table is None else by_table
    if table is not None:
        words[at.TABLE] = table.data_ptr()
    teams.run(kernel.address or 0, words.buffer_info()[0], x.numel(), threads, row or BLOCK)
