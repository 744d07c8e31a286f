"""A normalisation's call as its kernel takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.triton_gpu import DTYPES
from mbe_plugin.kernels.triton_gpu.calls import bits, constants, limits, parts, power_of_two, tables
from mbe_plugin.kernels.triton_gpu.compiled import norms

TILE = 2048  # elements of a program, where a row is shorter
MOST_COLUMNS = 1 << 14  # of a row, which a program's registers hold


def normalized(
    x: Tensor, columns: int, eps: float, centered: bool, gain: Tensor | None, shift: Tensor | None,
    deviation: Asked, rsqrt: Asked,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """operators.normalization's result for the rows [columns] of x, in x's dtype, and six counts.

    gain, shift [columns]. deviation: of an identity; both neurons with their range: the counts are the
    deviation's three of Asked, then the other's.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    found = torch.zeros(6, dtype=torch.int64, device=x.device)
    if x.numel() == 0:
        return out, found
    rows, wide = x.numel() // columns, power_of_two(columns)
    together = max(TILE // wide, 1)
    gains, shifts = (x if p is None else p.to(torch.float32).contiguous() for p in (gain, shift))
    (of_deviation, *deviation_limits, _), of_variance = (
        limits(deviation, torch.float32),
        limits(rsqrt, torch.float32),
    )
    with torch.cuda.device_of(x):
        norms.normalize[(parts(rows, together),)](
            bits(x), bits(out), gains, shifts, *tables(rsqrt), found, of_deviation, *deviation_limits, *of_variance,
            rows, columns, float(eps), DTYPE=DTYPES[x.dtype], CENTERED=centered, GAIN=gain is not None,
            SHIFT=shift is not None, DEVIATION_BITS=deviation.kept_bits, **constants(rsqrt), ROWS=together, COLUMNS=wide,
            num_warps=min(max(together * wide // 512, 4), 16), enable_fp_fusion=False,
        )  # fmt: skip
    return out, found
