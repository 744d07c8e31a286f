"""The time loop, over the bases that an element drives and no others.

Differentiable: with a surrogate function the comparison has the surrogate's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mbe_plugin.kernels.histogram import histogram
from mbe_plugin.kernels.prepared import Prepared

Fire = Callable[[Tensor], Tensor]


def heaviside(v: Tensor) -> Tensor:
    """1 where v >= 0, else 0, in v's dtype."""
    return (v >= 0).to(v.dtype)


def membrane_of(x: Tensor, row: int | Tensor, p: Prepared) -> Tensor:
    """u[0] of basis ``row`` for reduced inputs x."""
    return p.gain[row] * (x - p.offset[row])


def step(
    membrane: Tensor, t: int, row: int | Tensor, p: Prepared, fire: Fire = heaviside
) -> tuple[Tensor, Tensor]:
    """s[t] and u[t + 1] from u[t]."""
    spike = fire(membrane - p.threshold[t][row])
    return spike, membrane - spike * p.reset[t][row]


def weigh(spike: Tensor, t: int, row: int | Tensor, p: Prepared) -> Tensor:
    """What a spike at step t adds to the read-out."""
    return p.weight[row] * (spike * p.intensity[t][row])


def trains(x: Tensor, p: Prepared, fire: Fire = heaviside) -> Iterator[tuple[int, list[Tensor]]]:
    """For each place in a bank, the T spike tensors (shape of x) of the driven basis."""
    bank = p.bank(x)
    for place in range(p.bases_per_bank):
        row = p.rows(bank, place)
        membrane = membrane_of(x, row, p)
        spikes = []
        for t in range(p.time_steps):
            spike, membrane = step(membrane, t, row, p, fire)
            spikes.append(spike)
        yield place, spikes


def decode(x: Tensor, p: Prepared, fire: Fire = heaviside) -> Tensor:
    """Read-out of the dynamics for reduced inputs x; same shape and dtype."""
    bank = p.bank(x)
    total = torch.zeros_like(x)
    for place, spikes in trains(x, p, fire):
        row = p.rows(bank, place)
        output = torch.zeros_like(x)
        for t, spike in enumerate(spikes):
            output = output + spike * p.intensity[t][row]
        total = total + p.weight[row] * output
    return total + (p.bias[0] if bank is None else p.bias[bank])


def weighted_sequence(x: Tensor, p: Prepared, fire: Fire = heaviside) -> Tensor:
    """Weighted spikes per step, shape [T, *x.shape]; the bias arrives at step 0."""
    bank = p.bank(x)
    sequence = [torch.zeros_like(x) for _ in range(p.time_steps)]
    for place, spikes in trains(x, p, fire):
        row = p.rows(bank, place)
        for t, spike in enumerate(spikes):
            sequence[t] = sequence[t] + weigh(spike, t, row, p)
    sequence[0] = sequence[0] + (p.bias[0] if bank is None else p.bias[bank])
    return torch.stack(sequence)


def spikes_per_element(x: Tensor, p: Prepared) -> Tensor:
    """How many spikes each element sends, float32."""
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for _, spikes in trains(x, p):
        for spike in spikes:
            total += spike
    return total


def spike_counts(x: Tensor, p: Prepared, active: Tensor | None) -> Tensor:
    """Spikes summed over the elements, [T, N], int64; silent elements are left out."""
    bank = p.bank(x)
    bases = p.weight.shape[0]
    counts = torch.zeros(p.time_steps, bases, dtype=torch.int64, device=x.device)
    for place, spikes in trains(x, p):
        row = p.rows(bank, place)
        for t, spike in enumerate(spikes):
            fired = spike > 0 if active is None else (spike > 0) & active
            if isinstance(row, int):
                counts[t, row] += fired.sum()
            else:
                driven = torch.where(fired, row, bases)  # a row more, for what is not counted
                counts[t] += histogram(driven.reshape(-1), bases + 1)[:bases]
    return counts
