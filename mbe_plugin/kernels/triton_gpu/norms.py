"""A normalisation's call as its kernel takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.triton_gpu import DTYPES
from mbe_plugin.kernels.triton_gpu.calls import bits, constants, in_ptx, limits, parts, power_of_two, tables
from mbe_plugin.kernels.triton_gpu.compiled import norms

TILE = 2048  # elements of a program, where a row is shorter
MOST_COLUMNS = 1 << 14  # of a row, which a program's registers hold


def normalized(
    x: Tensor, columns: int, eps: float, centered: bool, gain: Tensor | None, shift: Tensor | None,
    deviation: Asked, rsqrt: Asked,
) -> Tensor:  # fmt: skip
    """operators.normalization's result for the rows [columns] of x, in x's dtype.

    gain, shift [columns]. deviation: of an identity; both neurons with their range and counters.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    rows, wide = x.numel() // columns, power_of_two(columns)
    together = max(TILE // wide, 1)
    dtypes = {p.dtype for p in (gain, shift) if p is not None}
    dtype = dtypes.pop() if len(dtypes) == 1 and dtypes <= DTYPES.keys() else torch.float32
    gains, shifts = (bits(x) if p is None else bits(p.to(dtype).contiguous()) for p in (gain, shift))
    (of_deviation, *deviation_limits, _), of_variance = (
        limits(deviation, torch.float32),
        limits(rsqrt, torch.float32),
    )
    counted = [counter for asked in (deviation, rsqrt) for counter in asked.counters or ()]
    with torch.cuda.device_of(x):
        norms.normalize[(parts(rows, together),)](
            bits(x), bits(out), gains, shifts, *tables(rsqrt), *counted, of_deviation, *deviation_limits, *of_variance,
            rows, columns, float(eps), DTYPE=DTYPES[x.dtype], PARAMETERS=DTYPES[dtype], CENTERED=centered,
            GAIN=gain is not None, SHIFT=shift is not None, DEVIATION_BITS=deviation.kept_bits, **constants(rsqrt),
            ROWS=together, COLUMNS=wide, PTX=in_ptx(), num_warps=min(max(together * wide // 512, 4), 16),
            enable_fp_fusion=False,
        )  # fmt: skip
    return out
