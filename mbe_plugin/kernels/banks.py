"""Finding an element's bank without a search per element.

The range of the break points is cut into equal cells. A cell knows how many break points lie in cells
before it; those inside the same cell are compared one by one. Rounding cannot hurt: the cell is a
non-decreasing function of the value, so a break point in an earlier cell is smaller and one in a later
cell is larger.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbe_plugin.neuron.dynamics import bank_index
from mbe_plugin.neuron.scaling import mantissa

CELLS = 2048
WORTHWHILE = 1 << 13  # elements; below, the search costs less than making the cells
MOST_PER_CELL = 4


def find_bank(x: Tensor, breakpoints: Tensor, mirrored: bool, octaves: bool = False) -> Tensor:
    """The same numbers as neuron.dynamics.bank_index (int32 or int64), several times faster on the CPU.

    NaN may get another bank: it reads NaN in all of them.
    """
    values = x.detach()
    small = values.numel() < WORTHWHILE or breakpoints.numel() == 0
    if small or values.device.type != "cpu" or torch.compiler.is_compiling():
        return bank_index(values, breakpoints, mirrored, octaves)
    compared = mantissa(values) if octaves else values.abs() if mirrored else values
    segment = _segment(compared, breakpoints)
    if segment is None:
        return bank_index(values, breakpoints, mirrored, octaves)
    return segment.add_((values < 0), alpha=breakpoints.numel() + 1) if mirrored else segment


def look_up(table: Tensor, row: int | Tensor) -> Tensor:
    """table[row] for a table of one dimension."""
    if isinstance(row, int):
        return table[row]
    return torch.index_select(table, 0, row.reshape(-1)).reshape(row.shape)


def _segment(values: Tensor, breakpoints: Tensor) -> Tensor | None:
    """How many break points are at or below each value, or None where the cells would not help."""
    first, last = breakpoints[0], breakpoints[-1]
    per_unit = CELLS / (last - first)
    if not bool(torch.isfinite(per_unit)):  # all break points at one place
        return None
    per_cell = torch.bincount(_cell(breakpoints, first, per_unit), minlength=CELLS)
    most = int(per_cell.max())
    if most > MOST_PER_CELL:
        return None
    before = (torch.cumsum(per_cell, 0) - per_cell).to(torch.int32)
    segment = look_up(before, _cell(values, first, per_unit))
    ends = torch.cat([breakpoints, breakpoints.new_full((1,), torch.nan)])  # nothing is at or above NaN
    for _ in range(most):
        segment += values >= look_up(ends, segment)
    return segment


def _cell(values: Tensor, first: Tensor, per_unit: Tensor) -> Tensor:
    place = ((values - first) * per_unit).clamp_(0, CELLS - 1)
    return place.to(torch.int32).clamp_(0, CELLS - 1)  # NaN has no place
