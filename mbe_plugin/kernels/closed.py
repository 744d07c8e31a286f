"""Closed form of the halving code: the spikes are the binary digits of an integer.

With th[t] = r[t] = d[t] = 2^-(t+1) the loop of METHOD eq. 5-7 compares and subtracts powers of two,
exactly in floating point, so s[t] is digit t of k = floor(2^T u), clipped to [0, 2^T - 1]. Equality
with the step loop, spike for spike and value for value, is held by tests/test_kernels.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.kernels.prepared import Prepared


def code(x: Tensor, p: Prepared, row: int | Tensor) -> Tensor:
    """The integer k (in x's dtype) whose T binary digits are the spikes of basis ``row``."""
    codes = 2.0**p.time_steps
    membrane = p.gain[row] * (x - p.offset[row])
    return torch.floor(membrane * codes).clamp(0.0, codes - 1.0)


def decode(x: Tensor, p: Prepared) -> Tensor:
    """Read-out for finite reduced inputs x, equal to steps.decode bit for bit; NaN reads NaN."""
    bank = p.bank(x)
    total = torch.zeros_like(x)
    for place in range(p.bases_per_bank):
        row = p.rows(bank, place)
        output = code(x, p, row) * 2.0**-p.time_steps
        total = total + p.weight[row] * output
    return total + (p.bias[0] if bank is None else p.bias[bank])


def spike_counts(x: Tensor, p: Prepared, active: Tensor | None) -> Tensor:
    """Spikes summed over the elements, [T, N], int64, equal to steps.spike_counts."""
    bank = p.bank(x)
    bases = p.weight.shape[0]
    counts = torch.zeros(p.time_steps, bases, dtype=torch.int64, device=x.device)
    for place in range(p.bases_per_bank):
        row = p.rows(bank, place)
        digits = code(x, p, row).to(torch.int64)
        rows = torch.full_like(digits, row) if isinstance(row, int) else row
        if active is not None:
            digits, rows = digits[active], rows[active]
        counts += _digit_counts(digits.reshape(-1), rows.reshape(-1), p.time_steps, bases)
    return counts


def _digit_counts(digits: Tensor, rows: Tensor, time_steps: int, bases: int) -> Tensor:
    """How often each binary digit is 1, per row: [T, N]."""
    places = torch.arange(time_steps - 1, -1, -1, device=digits.device)
    codes = 1 << time_steps
    if digits.numel() > bases * codes:  # many elements: count each code once, then look at its digits
        histogram = torch.bincount(rows * codes + digits, minlength=bases * codes).reshape(bases, codes)
        present = (torch.arange(codes, device=digits.device) >> places[:, None]) & 1
        return torch.stack([(histogram * one).sum(dim=1) for one in present])
    counts = torch.zeros(time_steps, bases, dtype=torch.int64, device=digits.device)
    for t, place in enumerate(places.tolist()):
        counts[t].scatter_add_(0, rows, (digits >> place) & 1)
    return counts


def encode_identity(x: Tensor, kept_bits: int) -> Tensor:
    """The identity with a scale per element: keep the leading mantissa bits and add half a step.

    For an identity of S = 2^s equal segments of the mantissa and T steps, the read-out is
    sign * 2^e * (leading T + s mantissa digits, then a 1): one AND and one OR on the float's bits. Zero and
    denormals read 0; infinities and NaN pass through.
    """
    integer, mantissa = (torch.int64, 52) if x.dtype == torch.float64 else (torch.int32, 23)
    dropped = mantissa - kept_bits
    bits = (x.view(integer) & (-1 << dropped)) | (1 << (dropped - 1))
    smallest = torch.finfo(x.dtype).tiny
    magnitude = x.abs()
    normal = (magnitude >= smallest) & (magnitude < torch.inf)
    return torch.where(normal, bits.view(x.dtype), torch.where(magnitude < smallest, x * 0, x))
