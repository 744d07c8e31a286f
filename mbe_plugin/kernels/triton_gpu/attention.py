"""An attention's call as its kernel takes it."""

from __future__ import annotations

from math import frexp
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.triton_gpu import DTYPES
from mbe_plugin.kernels.triton_gpu.calls import (
    bits,
    cell_tables,
    cells_of,
    constants,
    in_ptx,
    limits,
    parts,
    power_of_two,
    tables,
)
from mbe_plugin.kernels.triton_gpu.compiled import attention

QUERIES, KEYS, WARPS = 64, 32, 4  # of a tile, and of the program that computes it
# of a thread: with more, fewer programs run at a time, and tables are waited for (seen on an H200)
REGISTERS = 128
MOST_WIDE = 256  # of a head, whose queries a program's registers hold
COUNTED_ELSEWHERE = ("COUNTED", "SLOTS", "RANGED")
MOST_KEYS = 1 << 30  # whose counts 32 bits hold


def has_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether operands of such shapes and dtypes have a kernel: at most two dimensions of heads, alike in all."""
    lead = q.shape[:-2]
    return (
        len(lead) <= 2
        and k.shape[:-2] == lead
        and v.shape[:-2] == lead
        and q.dtype in DTYPES
        and k.dtype == v.dtype == q.dtype
        and 0 < q.shape[-1] <= MOST_WIDE
        and 0 < v.shape[-1] <= MOST_WIDE
        and min(q.numel(), k.numel()) > 0
        and k.shape[-2] < MOST_KEYS
        and (mask is None or (mask.dim() <= q.dim() and mask.dtype != torch.float64))
    )


def attended(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, causal: bool,
    exp2: Asked, reciprocal: Asked, weights: Asked | None, mixed: Asked, sizes: tuple[int, int] = (QUERIES, KEYS),
) -> Tensor:  # fmt: skip
    """The rows [..., L, V] of operators.Attention for queries [..., L, E], keys and values, in their dtype.

    Each neuron with its range and counters; those of ``weights`` and ``mixed`` are identities. Products are float32's, by
    tensor cores: of three of their numbers (tf32x3) where one is not exact, as it is for 16 bits.
    """
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    lead, queries, keys = q.shape[:-2], q.shape[-2], k.shape[-2]
    out = torch.empty_like(q) if v.shape[-1] == q.shape[-1] else q.new_empty(*lead, queries, v.shape[-1])
    if out.stride(-1) != 1:
        out = q.new_empty(*lead, queries, v.shape[-1])
    kind, masked = _masking(mask, (*lead, queries, keys), q)
    neurons = (exp2, reciprocal, weights or mixed, mixed)
    ranges = [limits(asked, torch.float32) for asked in neurons]
    shown = [number for *range_of, most in ranges for number in range_of]
    counted = [counter for asked in neurons for counter in asked.counters or ()]
    cells = cells_of(exp2)
    wide, value_wide = (max(power_of_two(t.shape[-1]), 16) for t in (q, v))
    exact = q.dtype != torch.float32 and frexp(scale)[0] == 0.5
    strides = [stride for t in (q, k, v, out) for stride in _in_four(t).stride()[:3]]
    with torch.cuda.device_of(q):
        attention.attend[(parts(queries, sizes[0]) * lead.numel(),)](
            bits(q), bits(k), bits(v), masked, bits(out), *tables(exp2), cell_tables(exp2, cells), *tables(reciprocal),
            *counted, *shown, ranges[0][-1], scale, lead[-1] if lead else 1, queries, keys, q.shape[-1], v.shape[-1],
            *strides, *masked.stride()[-4:], **_named("E", exp2), **_named("R", reciprocal), E_CELLS=cells,
            WEIGHT_BITS=weights.kept_bits if weights else 0, MIXED_BITS=mixed.kept_bits, MASK=kind, CAUSAL=causal,
            DTYPE=DTYPES[q.dtype], PRECISION="tf32" if exact else "tf32x3", PTX=in_ptx(), QUERIES=sizes[0], KEYS=sizes[1],
            WIDE=wide, VALUE_WIDE=value_wide, num_warps=WARPS, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def _in_four(t: Tensor) -> Tensor:
    """[batch, heads, rows, width]."""
    return t[(None,) * (4 - t.dim())]


def _masking(mask: Tensor | None, shape: tuple[int, ...], q: Tensor) -> tuple[str, Tensor]:
    """What kind of mask it is, and the mask in four dimensions, without a copy of what is broadcast."""
    if mask is None:
        return "none", q.new_empty(1).expand(1, 1, 1, 1)
    kind, mask = ("bool", mask.view(torch.uint8)) if mask.dtype == torch.bool else ("added", mask.float())
    return kind, mask.expand(shape)[(None,) * (4 - len(shape))]


def _named(prefix: str, asked: Asked) -> dict[str, Any]:
    """constants() under the names that the kernel has for this neuron."""
    return {
        f"{prefix}_{name}": value for name, value in constants(asked).items() if name not in COUNTED_ELSEWHERE
    }
