r"""The first-spike code: one spike, whose time is the exponent and whose basis is the mantissa's leading bits.

The published tables with alpha = 1/2 and tau = dt / ln 2, and a reset of twice the threshold:

    th[t] = d[t] = 2^-(t+1),   r[t] = 2 th[t]

A membrane u in [2^-(t+1), 2^-t) first meets a threshold that it reaches at step t; the reset leaves u - 2^-t < 0, so
it never fires again. One below 2^-T never fires. Ours is that the basis is chosen by the mantissa: segment k of
N / 2 equal ones of the octave, per sign, reads w_k d[t] = m_k 2^-t with m_k the middle of the segment.
"""

from __future__ import annotations

import torch

from mbe_plugin.neuron.tables import TABLE_FIELDS, Tables, check_bases, check_time_steps, halving_table

MOST_BASES = 2**22  # the middle of a segment is a float32 number


def first_spike_tables(time_steps: int, bases: int) -> Tables:
    """The first-spike identity on (-1, 1), N / 2 segments of the octave per sign; relative error at most 1 / N.

    Magnitudes below 2^-T send nothing and read 0. Beyond (-1, 1) a membrane would fire more than once: put the
    reduction 'clip' in front. Raises ValueError unless bases is 2, 4, 8, ... 2^22, and for T outside 1 to 20.
    """
    check_time_steps(time_steps)
    check_bases(bases)
    if bases < 2 or bases & (bases - 1) or bases > MOST_BASES:
        raise ValueError(f"a first-spike neuron needs N = 2, 4, 8, ... 2^22 bases (two signs), got {bases}")
    segments = bases // 2
    left = 0.5 + 0.5 / segments * torch.arange(segments, dtype=torch.float64)
    middle = left + 0.25 / segments
    sign = torch.cat([torch.ones(segments), -torch.ones(segments)])
    table = halving_table(time_steps, bases)
    return Tables(
        threshold=table,
        reset=2 * table,
        intensity=table,
        weight=sign * 2 * middle.repeat(2),
        bias=torch.zeros(bases),
        offset=torch.zeros(bases),
        gain=sign,
        breakpoints=left[1:],
        mirrored=True,
        octaves=True,
    )


def is_first_spike(tables: Tables) -> bool:
    """Whether these are the numbers of first_spike_tables()."""
    bases = tables.bases
    if not tables.octaves or tables.banks != bases or bases & (bases - 1) or bases > MOST_BASES:
        return False
    want = first_spike_tables(tables.time_steps, bases)
    return all(torch.equal(getattr(tables, name), getattr(want, name)) for name in TABLE_FIELDS)
