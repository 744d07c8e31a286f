"""A neuron's call as the kernels take it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.kernels.asked import Asked, mask_like
from mbe_plugin.kernels.triton_gpu import DTYPES
from mbe_plugin.kernels.triton_gpu.compiled import cells as by_cells
from mbe_plugin.kernels.triton_gpu.compiled import kernels
from mbe_plugin.neuron.scaling import REDUCTIONS

BLOCK = 1024  # elements of a program
WIDE = 1 << 30  # places within a shared scale's period that need 64 bits
MOST_STRIDED = 1 << 31  # elements from which on a strided input is copied
CELLED_FROM = 13  # segments that are found by cells; fewer are compared one by one
CELLS_PER_SEGMENT = 4

Found = tuple[Tensor, Tensor, Tensor]


def neuron(x: Tensor, asked: Asked, block: int = BLOCK) -> Found:
    """operator.call on a CUDA GPU, on torch's current stream; float32, bfloat16 or float16."""
    out, x, where, rows = _laid_out(x, asked)
    found = torch.zeros(asked.slots, dtype=torch.int64, device=x.device)
    if x.numel() > 0:
        with torch.cuda.device_of(x):
            if asked.scores:
                _launch_rows(x, out, found, asked, block)
            else:
                _launch_elements(x, out, where, rows, found, asked, block)
    return out, torch.empty(0, dtype=torch.float32, device=x.device), found


def bits(x: Tensor) -> Tensor:
    """x, bfloat16 as int16."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


def _laid_out(x: Tensor, asked: Asked) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int] | None]:
    """Asked.laid_out, but without a copy of an input whose rows lie apart: the columns of one, and how far apart."""
    if not asked.in_order and x.numel() < MOST_STRIDED:
        out = torch.empty_like(x)
        rows = None if x.stride() == out.stride() else _rows_apart(x, out)
        if rows is not None:
            return out, x, mask_like(out, asked.where), rows
    return *asked.laid_out(x), None


def _rows_apart(x: Tensor, out: Tensor) -> tuple[int, int] | None:
    """The columns of rows into which x falls in the order of out, which is dense, and their distance; None: it does not."""
    columns, apart = 1, 0
    for dim in sorted((d for d in range(x.dim()) if x.shape[d] > 1), key=lambda d: out.stride(d)):
        size, stride = x.shape[dim], x.stride(dim)
        if not apart and stride == columns:
            columns *= size
        elif not apart:
            apart, among = stride, size
        elif stride == apart * among:
            among *= size
        else:
            return None
    return (columns, apart) if columns > 1 and apart > 0 else None


def _launch_elements(
    x: Tensor, out: Tensor, where: Tensor | None, rows: tuple[int, int] | None, found: Tensor, asked: Asked, block: int
) -> None:  # fmt: skip
    exponents = x if asked.exponents is None else asked.exponents.contiguous()
    inner, along = prod(x.shape[asked.dim :][1:]), x.shape[asked.dim] if x.dim() else 1
    cells = cells_of(asked)
    kernels.neuron[(parts(x.numel(), block),)](
        bits(x), bits(out), x if where is None else where.view(torch.uint8), *tables(asked), cell_tables(asked, cells),
        exponents, found, *counters(asked, found), *limits(asked, torch.float32 if asked.shared == "channel" else x.dtype),
        x.numel(), *(rows or (1, 1)), inner, along, **constants(asked), CELLS=cells, DTYPE=DTYPES[x.dtype],
        MASKED=where is not None, STRIDED=rows is not None, SHARED=asked.shared, WIDE=inner * along > WIDE, BLOCK=block,
        PTX=in_ptx(), num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def _launch_rows(x: Tensor, out: Tensor, found: Tensor, asked: Asked, block: int) -> None:
    columns = x.shape[-1]
    rows = x.numel() // columns
    wide = min(power_of_two(columns), block)
    together = block // wide
    cells = cells_of(asked)
    kernels.numerators[(parts(rows, together),)](
        x, out, *tables(asked), cell_tables(asked, cells), found, *counters(asked, found), *limits(asked, x.dtype), rows,
        columns, **constants(asked), CELLS=cells, ROWS=together, COLUMNS=wide, PTX=in_ptx(), num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip


def cells_of(asked: Asked) -> int:
    """How many cells a neuron's kernel finds banks by; 0: by other means."""
    banks, bases = asked.tables[4].numel(), asked.tables[0].shape[1]
    segments = banks // 2 if asked.mirrored else banks
    if asked.form != "closed" or banks != bases or segments <= CELLED_FROM:
        return 0
    return CELLS_PER_SEGMENT * power_of_two(segments)


def cell_tables(asked: Asked, cells: int) -> Tensor:
    """The tables of compiled.cells, made anew in every call, since numbers in the neuron's may change."""
    _, _, _, weight, bias, offset, gain, breakpoints = tables(asked)
    if not cells:
        return weight
    banks = bias.numel()
    segments = breakpoints.numel() + 1
    out = torch.empty(4 + 2 * cells + 4 * banks, dtype=torch.float32, device=weight.device)
    by_cells.lay_out[(1,)](
        breakpoints, weight, bias, offset, gain, out, SEGMENTS=segments, LEVELS=(segments - 1).bit_length(), BANKS=banks,
        CELLS=cells, T=asked.tables[0].shape[0], num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def in_ptx() -> bool:
    """Whether kernels may use instructions that Triton's interpreter does not know."""
    return os.environ.get("TRITON_INTERPRET") != "1"


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
        "SLOTS": asked.event_slots,
        "RANGED": asked.calibrated is not None,
    }


def tables(asked: Asked) -> list[Tensor]:
    """The neuron's numbers."""
    return [table.contiguous() for table in asked.tables]


def counters(asked: Asked, found: Tensor) -> Sequence[Tensor]:
    """Where seen, outside and beyond are added: the neuron's own counters, or the last of what is found."""
    if asked.calibrated is None:
        return (found,) * 3
    return asked.counters or found[-3:].unbind()


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
