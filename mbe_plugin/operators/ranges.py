"""Which values leave a neuron's range, and saying so once per network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mbe_plugin.errors import RangeWarning

if TYPE_CHECKING:
    from mbe_plugin.operators.neuron import CalibratedNode


Ends = tuple[float, float]


def ends_of(value: Tensor, found: Tensor | None = None) -> Ends | None:
    """The least and the largest value, NaN if there is one; None where a look would wait for a device or break a graph.

    found: both [2], if somebody has looked already.
    """
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if found is None:
        least, largest = torch.aminmax(value)
        return least.item(), largest.item()
    least, largest = found.tolist()
    return least, largest


def hold(limits: Tensor, ends: Ends | None) -> bool:
    """Whether both ends are known and within limits [2]."""
    if ends is None:
        return False
    least, largest = limits.tolist()  # as numbers of Python, which compare much faster than tensors
    return least <= ends[0] and ends[1] <= largest


def outside(value: Tensor, limits: Tensor, where: Tensor | None) -> Tensor:
    """Which values (in ``where``) are not within limits [2]; NaN never is."""
    beyond = ~((value >= limits[0]) & (value <= limits[1]))
    return beyond if where is None else beyond & where


class RangeNotice:
    """Warns once per converted network that values left a calibrated range and lost accuracy by it."""

    def __init__(self) -> None:
        self.given = False
        self.nodes: list[CalibratedNode] = []

    def check_device(self) -> None:
        """Off the CPU, where a neuron does not look at its own counts, look at all of them at once, after a forward."""
        if self.given or not self.nodes or self.nodes[0].outside.device.type == "cpu":
            return
        self.check()

    def check(self) -> None:
        """Warn if any neuron has counted a value that it cannot decode accurately."""
        counted = torch.stack([node.outside for node in self.nodes])
        if not self.given and bool(counted.any()):
            node = self.nodes[int(counted.argmax())]
            low, high = node.calibrated.tolist()
            self.give(node.site, node.role, low, high, None)

    def give(self, site: str, role: str, low: float, high: float, value: float | None) -> None:
        """Warn, unless it was done before; value is one that was met, if known."""
        if self.given:
            return
        self.given = True
        met = "values" if value is None else format(value, "g")
        warnings.warn(
            f"{site} ({role}) met {met}, outside its calibrated range [{low:g}, {high:g}], where accuracy is lost; "
            "such values are counted in mbe_plugin.report(snn); calibrate with data like yours. Said once per network",
            RangeWarning,
            stacklevel=2,
        )
