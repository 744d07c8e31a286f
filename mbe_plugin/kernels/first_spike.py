"""Closed form of the first-spike code: the time of the spike is an exponent, its basis the mantissa's leading bits.

For the numbers of neuron.first_spike and inputs in (-1, 1), or NaN, which reads 0 here and sends nothing. Equality with
the step loop, spike for spike and value for value, is held by tests/test_first_spike.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.kernels.closed import middle_of_segment
from mbe_plugin.kernels.histogram import histogram
from mbe_plugin.kernels.prepared import Prepared
from mbe_plugin.neuron.scaling import binary_exponent


def spike_time(x: Tensor) -> Tensor:
    """The step t with 2^-(t+1) <= |x| < 2^-t, as an integer; none from 0 to T - 1 where no spike is sent."""
    return -binary_exponent(x)


def decode(x: Tensor, p: Prepared) -> Tensor:
    """Read-out, equal to steps.decode bit for bit."""
    segments = p.banks // 2
    middle = middle_of_segment(x, segments.bit_length() - 1)
    return torch.where(x.abs() >= 2.0**-p.time_steps, middle, 0.0)


def spike_counts(x: Tensor, p: Prepared, active: Tensor | None) -> Tensor:
    """Spikes summed over the elements, [T, N], int64, equal to steps.spike_counts."""
    time, row = spike_time(x), p.bank(x)
    assert row is not None  # there are two signs
    sent = _is_sent(time, p)
    if active is not None:
        sent = sent & active
    slots = p.time_steps * p.banks
    keys = torch.where(sent, time * p.banks + row, slots)  # a slot more, for what is silent
    return histogram(keys.reshape(-1), slots + 1)[:slots].reshape(p.time_steps, p.banks)


def spikes_per_element(x: Tensor, p: Prepared) -> Tensor:
    """How many spikes each element sends, 0 or 1, float32, equal to steps.spikes_per_element."""
    return _is_sent(spike_time(x), p).to(torch.float32)


def _is_sent(time: Tensor, p: Prepared) -> Tensor:
    return (time >= 0) & (time < p.time_steps)
