"""Closed form of the halving code: the spikes are the binary digits of an integer.

With th[t] = r[t] = d[t] = 2^-(t+1) the loop of arXiv:2508.07710, eq. 5-7 compares and subtracts powers of two,
exactly in floating point, so s[t] is digit t of k = floor(2^T u), clipped to [0, 2^T - 1]. Equality
with the step loop, spike for spike and value for value, is held by tests/test_kernels.py.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mbe_plugin.kernels.banks import look_up
from mbe_plugin.kernels.histogram import histogram
from mbe_plugin.kernels.prepared import Prepared

RUN = 8  # digits that one histogram counts together


def code(x: Tensor, p: Prepared, row: int | Tensor) -> Tensor:
    """The integer k (in x's dtype) whose T binary digits are the spikes of basis ``row``."""
    codes = 2.0**p.time_steps
    membrane = (x - look_up(p.offset, row)).mul_(look_up(p.gain, row))
    return membrane.mul_(codes).floor_().clamp_(0.0, codes - 1.0)


def decode(x: Tensor, p: Prepared) -> Tensor:
    """Read-out for finite reduced inputs x, equal to steps.decode bit for bit; NaN reads NaN."""
    bank = p.bank(x)
    total = torch.zeros_like(x)
    for place in range(p.bases_per_bank):
        row = p.rows(bank, place)
        output = code(x, p, row).mul_(2.0**-p.time_steps)
        total += output.mul_(look_up(p.weight, row))
    return total.add_(look_up(p.bias, 0 if bank is None else bank))


def spike_counts(x: Tensor, p: Prepared, active: Tensor | None) -> Tensor:
    """Spikes summed over the elements, [T, N], int64, equal to steps.spike_counts."""
    bank = p.bank(x)
    bases = p.weight.shape[0]
    counts = torch.zeros(p.time_steps, bases, dtype=torch.int64, device=x.device)
    for place in range(p.bases_per_bank):
        row = p.rows(bank, place)
        digits = code(x, p, row).to(torch.int64)
        rows = torch.full_like(digits, row) if isinstance(row, int) else row
        counts += code_counts(digits, rows, active, p.time_steps, bases)
    return counts


def code_counts(digits: Tensor, rows: Tensor, active: Tensor | None, time_steps: int, bases: int) -> Tensor:
    """How often each of the T binary digits is 1, per row, over the active elements: [T, N], int64."""
    if active is not None:
        rows = torch.where(active, rows, bases)  # a row more, for what is not counted
    return _digit_counts(digits.reshape(-1), rows.reshape(-1), time_steps, bases + 1)[:, :bases]


def spikes_per_element(x: Tensor, p: Prepared) -> Tensor:
    """How many spikes each element of the finite reduced inputs x sends, float32, equal to steps.spikes_per_element."""
    bank = p.bank(x)
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for place in range(p.bases_per_bank):
        total += ones_in(code(x, p, p.rows(bank, place)).to(torch.int32), p.time_steps)
    return total


def ones_in(digits: Tensor, time_steps: int) -> Tensor:
    """How many of the last T binary digits are 1, float32."""
    place = digits & ((1 << time_steps) - 1)  # NaN has become a number of any size
    return look_up(_ones_table(time_steps).to(digits.device), place)


@lru_cache(maxsize=32)
def _ones_table(time_steps: int) -> Tensor:
    numbers = torch.arange(1 << time_steps, dtype=torch.int32)
    return sum(((numbers >> place) & 1 for place in range(time_steps)), torch.zeros_like(numbers)).float()


def _digit_counts(digits: Tensor, rows: Tensor, time_steps: int, bases: int) -> Tensor:
    """How often each binary digit is 1, per row: [T, N]; by a histogram of each run of digits."""
    counts = torch.empty(time_steps, bases, dtype=torch.int64, device=digits.device)
    for low in range(0, time_steps, RUN):
        width = min(RUN, time_steps - low)
        values = 1 << width
        keys = rows * values + ((digits >> low) & (values - 1))
        found = histogram(keys, bases * values).reshape(bases, values)
        present = torch.arange(values, device=digits.device)
        for place in range(width):  # the highest place is step 0
            ones = (present >> place) & 1
            counts[time_steps - 1 - low - place] = (found * ones).sum(dim=1)
    return counts


def encode_identity(x: Tensor, kept_bits: int) -> Tensor:
    """The identity with a scale per element: keep the leading mantissa bits and add half a step.

    For an identity of S = 2^s equal segments of the mantissa and T steps, the read-out is
    sign * 2^e * (leading T + s mantissa digits, then a 1): one AND and one OR on the float's bits. Zero and
    denormals read 0; infinities and NaN pass through.
    """
    coded = middle_of_segment(x, kept_bits)
    return torch.where(_is_normal(x), coded, x * torch.finfo(x.dtype).tiny)


def middle_of_segment(x: Tensor, kept_bits: int) -> Tensor:
    """x with its mantissa's leading bits, then a 1 and zeros: the middle of one of 2^kept_bits segments of the octave."""
    integer, mantissa, _ = _FORMAT[x.dtype]
    dropped = mantissa - kept_bits
    return (x.view(integer) & (-1 << dropped)).bitwise_or_(1 << (dropped - 1)).view(x.dtype)


def identity_codes(x: Tensor, kept_bits: int) -> tuple[Tensor, Tensor]:
    """Sign, segment and T digits of such an identity as one integer, and whether it sends anything (zero does not)."""
    integer, mantissa, _ = _FORMAT[x.dtype]
    return x.view(integer) >> (mantissa - kept_bits), _is_normal(x)


def _is_normal(x: Tensor) -> Tensor:
    """Whether x is no zero, denormal, infinity or NaN."""
    integer, mantissa, exponents = _FORMAT[x.dtype]
    # one more in the exponent's field: 0 or 1 there means one of these
    return (x.view(integer) + (1 << mantissa)).bitwise_and_((exponents - 1) << mantissa) != 0


def identity_spike_counts(codes: Tensor, sent: Tensor, time_steps: int, bases: int) -> Tensor:
    """Spikes summed over the elements that are ``sent``, [T, N], int64, from the codes of such an identity."""
    segments = bases // 2
    rows = ((codes >> time_steps) & (segments - 1)) + (codes < 0) * segments
    return code_counts(codes, rows, sent, time_steps, bases)


_FORMAT = {
    # dtype: (integer dtype, mantissa bits, largest exponent field)
    torch.float32: (torch.int32, 23, 0xFF),
    torch.float64: (torch.int64, 52, 0x7FF),
}
