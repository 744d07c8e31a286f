"""An attention's call as its kernel takes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.triton_gpu.calls import constants, limits, parts, power_of_two, tables
from mbe_plugin.kernels.triton_gpu.compiled import attention

QUERIES, KEYS, WARPS = 64, 32, 8  # of a tile: what the registers of a GPU hold
MOST_WIDE = 256  # of a head, whose queries a program's registers hold
COUNTED_ELSEWHERE = ("COUNTED", "SLOTS", "RANGED")


def has_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> bool:
    """Whether operands of such shapes have a kernel: float32, at most two dimensions of heads, alike in all."""
    lead = q.shape[:-2]
    return (
        len(lead) <= 2
        and k.shape[:-2] == lead
        and v.shape[:-2] == lead
        and {q.dtype, k.dtype, v.dtype} == {torch.float32}
        and 0 < q.shape[-1] <= MOST_WIDE
        and 0 < v.shape[-1] <= MOST_WIDE
        and min(q.numel(), k.numel()) > 0
        and (mask is None or (mask.dim() <= q.dim() and mask.dtype != torch.float64))
    )


def attended(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool,
    exp2: Asked, reciprocal: Asked, weights: Asked | None, mixed: Asked, sizes: tuple[int, int] = (QUERIES, KEYS),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The rows [..., L, V] of operators.Attention for scaled queries [..., L, E], keys and values, float32; ten counts.

    Each neuron with its range; those of ``weights`` and ``mixed`` are identities. Counts: of each neuron how many inputs
    lie beyond its range and how many of those are decoded worse (exp2, reciprocal, weights, mixed: eight numbers), how many
    powers are sent and how many rows have a sum.
    """
    q, k, v = (t.contiguous() for t in (q, k, v))
    lead, queries, keys = q.shape[:-2], q.shape[-2], k.shape[-2]
    out = q.new_empty(*lead, queries, v.shape[-1])
    found = torch.zeros(10, dtype=torch.int64, device=q.device)
    kind, seen = _masking(mask, (*lead, queries, keys), q)
    ranges = [limits(asked or mixed, torch.float32) for asked in (exp2, reciprocal, weights, mixed)]
    shown = [number for *range_of, most in ranges for number in range_of]
    wide, value_wide = (max(power_of_two(t.shape[-1]), 16) for t in (q, v))
    with torch.cuda.device_of(q):
        attention.attend[(parts(queries, sizes[0]) * lead.numel(),)](
            q, k, v, seen, out, *tables(exp2), *tables(reciprocal), found, *shown, ranges[0][-1],
            lead[-1] if lead else 1, queries, keys, q.shape[-1], v.shape[-1], *seen.stride()[-4:],
            **_named("E", exp2), **_named("R", reciprocal), WEIGHT_BITS=weights.kept_bits if weights else 0,
            MIXED_BITS=mixed.kept_bits, MASK=kind, CAUSAL=causal, QUERIES=sizes[0], KEYS=sizes[1], WIDE=wide,
            VALUE_WIDE=value_wide, num_warps=WARPS, num_stages=1, enable_fp_fusion=False,
        )  # fmt: skip
    return out, found


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
