"""The reference: the MBE dynamics written out step by step, slow and obvious.

Every other path (kernels/) is tested against these two functions, spike for spike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.neuron.scaling import mantissa
from mbe_plugin.neuron.tables import Tables


def bank_index(x: Tensor, breakpoints: Tensor, mirrored: bool, octaves: bool = False) -> Tensor:
    """The bank each element of x drives: breakpoints[b-1] <= x < breakpoints[b]; int64, shape of x.

    mirrored: of |x|, and banks of their own for x < 0; octaves: of its mantissa in [0.5, 1).
    """
    values = x.detach().contiguous()  # bucketize warns about others
    if not mirrored:
        return torch.bucketize(values, breakpoints, right=True)
    segment = torch.bucketize(mantissa(values) if octaves else values.abs(), breakpoints, right=True)
    return segment + (x < 0).to(segment.dtype) * (breakpoints.numel() + 1)


def reference_spikes(x: Tensor, tables: Tables) -> Tensor:
    """Spikes s_n[t] of arXiv:2508.07710, eq. 5-7 for membranes that start at x; shape [T, N, *x.shape], of x's dtype.

    x must already be reduced (neuron/scaling.py) and float32 or float64.
    """
    cast = {name: value.to(x) for name, value in tables.as_dict().items()}
    bank = bank_index(x, cast["breakpoints"], tables.mirrored, tables.octaves)
    spikes = x.new_zeros((tables.time_steps, tables.bases, *x.shape))
    for n in range(tables.bases):
        driven = bank == n // tables.bases_per_bank
        membrane = cast["gain"][n] * (x - cast["offset"][n])
        for t in range(tables.time_steps):
            fired = (membrane >= cast["threshold"][t, n]) & driven
            spikes[t, n] = fired.to(x.dtype)
            membrane = membrane - spikes[t, n] * cast["reset"][t, n]
    return spikes


def reference_decode(spikes: Tensor, x: Tensor, tables: Tables) -> Tensor:
    """The read-out of arXiv:2508.07710, eq. 8 for spikes [T, N, *x.shape], in the fixed summation order.

    Over t first, from 0 to T - 1, then weight_n times the sum, over n from 0 to N - 1, then the bias of
    the element's bank. Every path keeps this order, so decoded values agree bit for bit.
    """
    cast = {name: value.to(x) for name, value in tables.as_dict().items()}
    bank = bank_index(x, cast["breakpoints"], tables.mirrored, tables.octaves)
    total = torch.zeros_like(x)
    for n in range(tables.bases):
        output = torch.zeros_like(x)
        for t in range(tables.time_steps):
            output = output + spikes[t, n] * cast["intensity"][t, n]
        total = total + cast["weight"][n] * output
    return total + cast["bias"][bank]
