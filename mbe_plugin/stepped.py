"""An MBE neuron whose T steps are taken one at a time, for hosts that call a neuron once per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbe_plugin.kernels import steps
from mbe_plugin.neuron.scaling import compute_dtype
from mbe_plugin.neuron.tables import TABLE_FIELDS, Tables
from mbe_plugin.node import BUFFER_OF, MBENode


@dataclass(frozen=True)
class Start:
    """What the first step finds out about an input [...]: its bank, its exponent, and whether it sends at all.

    work: the input in the dtype of the simulation. dtype: its own, which is the results'.
    """

    work: Tensor
    dtype: torch.dtype
    bank: Tensor | None
    exponent: Tensor | None
    active: Tensor | None


class SteppedNode(MBENode):
    """An MBENode that can also be stepped: ``start`` once, then ``step`` for t = 0 .. T - 1.

    The T results are ``weighted_spikes`` of the same input, bit for bit. learn: which numbers are parameters, by their
    names in Tables; they stay float32 like the others.
    """

    def __init__(self, tables: Tables, reduction: str, learn: Iterable[str] = ()) -> None:
        super().__init__(tables, reduction, simulate="steps")
        for field in learn:
            name = BUFFER_OF.get(field, field)
            value = self._buffers.pop(name)
            assert value is not None
            self.register_parameter(name, nn.Parameter(value))

    def start(self, x: Tensor) -> tuple[Start, list[Tensor]]:
        """What x [...] is to the steps, and the membranes [...] of the bases that each of its elements drives."""
        work = x.to(compute_dtype(x))
        reduced, exponent, active = self._split(work)
        p = self._prepared(work)
        bank = p.bank(reduced)
        rows = [p.rows(bank, place) for place in range(p.bases_per_bank)]
        return Start(work, x.dtype, bank, exponent, active), [
            steps.membrane_of(reduced, row, p) for row in rows
        ]

    def step(
        self, t: int, start: Start, membranes: Sequence[Tensor], fire: steps.Fire
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Step t: the driven bases' spikes, what they add to the read-out, and the membranes that they leave."""
        p = self._prepared(start.work)
        spikes, left = [], []
        weighted = torch.zeros_like(start.work)
        for place, membrane in enumerate(membranes):
            row = p.rows(start.bank, place)
            spike, after = steps.step(membrane, t, row, p, fire)
            weighted = weighted + steps.weigh(spike, t, row, p)
            spikes.append(spike)
            left.append(after)
        if t == 0:
            weighted = weighted + (p.bias[0] if start.bank is None else p.bias[start.bank])
            return spikes, self._restore(weighted, start.exponent, start.active, start.work), left
        if start.exponent is not None:
            weighted = self.reduction.scale(weighted, start.exponent)
        return spikes, _where(start.active, weighted), left

    def binary(self, spikes: Sequence[Tensor], start: Start) -> Tensor:
        """The driven bases' spikes among all N, [..., N]; idle banks and silent elements send 0."""
        sent = torch.stack([_where(start.active, spike) for spike in spikes], dim=-1)
        if start.bank is None:
            return sent
        first = start.bank.unsqueeze(-1) * len(spikes)
        rows = first + torch.arange(len(spikes), device=first.device)
        return sent.new_zeros(*start.work.shape, self.bases).scatter(-1, rows.to(torch.int64), sent)

    def current(self, x: Tensor) -> list[Tensor]:
        """What a later input x adds to the membranes of a neuron that has one bank and no range reduction."""
        p = self._prepared(x)
        return [gain * x for gain in p.gain]

    @property
    def takes_current(self) -> bool:
        """Whether later input can be added: with banks or a range reduction, the first step needs the whole value."""
        return self.bias.shape[0] == 1 and self.reduction.kind == "none"

    def _buffers_by_field(self) -> dict[str, Tensor]:
        # what learns is a parameter, which is no buffer
        return {name: getattr(self, BUFFER_OF.get(name, name)) for name in TABLE_FIELDS}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SteppedNode:
        super()._apply(device_only(fn), recurse)
        return self


def device_only(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """fn where it keeps a tensor's dtype, else only the move to another device."""

    def moved(tensor: Tensor) -> Tensor:
        out = fn(tensor)
        return out if out.dtype == tensor.dtype else tensor.to(out.device)

    return moved


def _where(active: Tensor | None, y: Tensor) -> Tensor:
    return y if active is None else torch.where(active, y, 0.0)
