"""A neuron's call as the kernels take it."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked
from mbe_plugin.kernels.triton_gpu import DTYPES
from mbe_plugin.kernels.triton_gpu.compiled import kernels
from mbe_plugin.neuron.scaling import REDUCTIONS

BLOCK = 1024  # elements of a program
WIDE = 1 << 30  # places within a shared scale's period that need 64 bits

Found = tuple[Tensor, Tensor, Tensor]


def neuron(x: Tensor, asked: Asked, block: int = BLOCK) -> Found:
    """operator.call on a CUDA GPU, on torch's current stream; float32, bfloat16 or float16."""
    out, x, where = asked.laid_out(x)
    found = torch.zeros(asked.slots, dtype=torch.int64, device=x.device)
    if x.numel() > 0:
        with torch.cuda.device_of(x):
            if asked.scores:
                _launch_rows(x, out, found, asked, block)
            else:
                _launch_elements(x, out, where, found, asked, block)
    return out, torch.empty(0, dtype=torch.float32, device=x.device), found


def bits(x: Tensor) -> Tensor:
    """x, bfloat16 as int16."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def _launch_elements(
    x: Tensor, out: Tensor, where: Tensor | None, found: Tensor, asked: Asked, block: int
) -> None:
    exponents = x if asked.exponents is None else asked.exponents.contiguous()
    inner, along = prod(x.shape[asked.dim :][1:]), x.shape[asked.dim] if x.dim() else 1
    kernels.neuron[(parts(x.numel(), block),)](
        bits(x), bits(out), x if where is None else where.view(torch.uint8), *tables(asked), exponents, found,
        *limits(asked, torch.float32 if asked.shared == "channel" else x.dtype), x.numel(), inner, along,
        **constants(asked), DTYPE=DTYPES[x.dtype], MASKED=where is not None, SHARED=asked.shared,
        WIDE=inner * along > WIDE, BLOCK=block, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def _launch_rows(x: Tensor, out: Tensor, found: Tensor, asked: Asked, block: int) -> None:
    columns = x.shape[-1]
    rows = x.numel() // columns
    wide = min(power_of_two(columns), block)
    together = block // wide
    kernels.numerators[(parts(rows, together),)](
        x, out, *tables(asked), found, *limits(asked, x.dtype), rows, columns, **constants(asked),
        ROWS=together, COLUMNS=wide, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def constants(asked: Asked) -> dict[str, Any]:
    """What kind of neuron it is: the kernels' compile-time constants."""
    time_steps, bases = asked.tables[0].shape
    banks, reduction = asked.tables[4].numel(), REDUCTIONS[asked.reduction]
    segments = banks // 2 if asked.mirrored else banks
    keys = time_steps * bases if asked.form == "first_spike" else bases
    return {
        "FORM": asked.form,
        "KIND": reduction.kind,
        "POWER": reduction.power,
        "ONE_SIDED": reduction.one_sided(asked.mirrored),
        "MIRRORED": asked.mirrored,
        "OCTAVES": asked.octaves,
        "KEPT_BITS": asked.kept_bits,
        "T": time_steps,
        "N": bases,
        "BANKS": banks,
        "LEVELS": (segments - 1).bit_length(),
        "BINS": power_of_two(keys + 1),
        "COUNTED": asked.counted,
        "SLOTS": asked.slots - asked.range_slots,
        "RANGED": asked.range_slots > 0,
    }


def tables(asked: Asked) -> list[Tensor]:
    """The neuron's numbers."""
    return [table.contiguous() for table in asked.tables]


def limits(asked: Asked, dtype: torch.dtype) -> tuple[Tensor, float, float, float]:
    """The calibrated range, the range of accuracy, and the largest number of the dtype that they are compared in."""
    if asked.calibrated is None:
        return asked.tables[0], 0.0, 0.0, 0.0
    most = torch.finfo(dtype).max
    # a range without accuracy beyond it is not widened
    low, high = asked.accurate if asked.accurate is not None else (most, -most)
    return asked.calibrated, max(low, -most), min(high, most), most


def parts(size: int, part: int) -> int:
    """How many parts there are, the last one perhaps smaller."""
    return -(-size // part)


def power_of_two(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << (size - 1).bit_length()
