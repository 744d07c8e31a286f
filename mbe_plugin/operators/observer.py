"""What stands in a neuron's place while calibration runs, and what it keeps of the ANN's values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mbe_plugin.errors import CalibrationError
from mbe_plugin.fitting.functions import FUNCTIONS, Scalar
from mbe_plugin.operators.distribution import Spread

SAMPLES_PER_CALL = 8192
SAMPLES_KEPT = 65536
ROWS_PER_CALL = 128


@dataclass
class Statistics:
    """What calibration saw at one neuron: plain data."""

    low: float = float("inf")
    high: float = float("-inf")
    count: int = 0
    channels: Tensor | None = None  # largest magnitude per entry of the contracted dimension
    samples: list[Tensor] = field(default_factory=list)
    spread: Spread = field(
        default_factory=Spread
    )  # of some rows along that dimension, where centers may be asked for
    centers: bool = True

    @property
    def root_mean_square(self) -> float:
        """Of the kept values; 0 without any."""
        values = self.sample().double()
        return values.square().mean().sqrt().item() if values.numel() else 0.0

    @property
    def magnitude(self) -> float:
        """Largest magnitude seen."""
        return max(abs(self.low), abs(self.high)) if self.count else 0.0

    def sample(self) -> Tensor:
        """The kept values, float32 [n]."""
        return torch.cat(self.samples) if self.samples else torch.empty(0)

    def update(self, x: Tensor, where: Tensor | None = None, dim: int | None = None) -> None:
        """Take in the values x [...] that are in ``where``, and the largest ones along ``dim``, if given.

        Raises ValueError with the value if one is not finite; NaN is taken in everywhere.
        """
        values = x.detach()
        if where is not None:
            where = where | values.isnan()
        count = values.numel() if where is None else int(torch.count_nonzero(where))
        if count == 0:
            return
        if count == values.numel():
            where = None
        lows, highs = _ends(values, where, dim)
        low, high = lows.min().item(), highs.max().item()  # both NaN where one is
        if not math.isfinite(high - low):
            raise ValueError(high if math.isfinite(low) else low)
        self.low, self.high = min(self.low, low), max(self.high, high)
        if dim is not None and where is None and values.dim():
            self._update_channels(torch.maximum(highs, -lows).float().cpu(), first=self.count == 0)
            if self.centers:
                self.spread.add(some_rows(values, dim, ROWS_PER_CALL))
        self.count += count
        self.samples.append(spread(values, where, SAMPLES_PER_CALL).to("cpu", torch.float32, copy=True))
        if sum(s.numel() for s in self.samples) > SAMPLES_KEPT:
            self.samples = [torch.cat(self.samples)[::2].clone()]

    def _update_channels(self, largest: Tensor, *, first: bool) -> None:
        if first:
            self.channels = largest
        elif self.channels is not None and self.channels.shape == largest.shape:
            self.channels = torch.maximum(self.channels, largest)
        else:
            self.channels = None


def some_rows(x: Tensor, dim: int, most: int) -> Tensor:
    """Rows [n, C] of x along dim (of a vector there is one, whichever is asked for), evenly spread, at most so many."""
    dim %= x.dim()
    rows = x.movedim(dim, -1).reshape(-1, x.shape[dim])
    return rows[:: max(-(-len(rows) // most), 1)]


def _ends(values: Tensor, where: Tensor | None, dim: int | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest of the values in ``where``, per entry of ``dim`` if given; in few passes over memory."""
    if where is not None:
        return torch.where(where, values, torch.inf).amin(), torch.where(where, values, -torch.inf).amax()
    if dim is None or values.dim() == 0:
        return torch.aminmax(values)
    others = [d for d in range(values.dim()) if d != dim % values.dim()]
    return (values.amin(dim=others), values.amax(dim=others)) if others else (values, values)


def spread(x: Tensor, where: Tensor | None, most: int | None) -> Tensor:
    """The elements [n] of x in ``where``, or of many about ``most`` that are spread over every dimension."""
    if most is None or x.numel() <= most:
        return x.reshape(-1) if where is None else x[where]
    step = -(-x.numel() // most)
    while math.gcd(step, x.numel()) > 1:  # or it would meet the same channels again and again
        step += 1
    chosen = x.reshape(-1)[::step]
    return chosen if where is None else chosen[where.expand(x.shape).reshape(-1)[::step]]


class Observer(nn.Module):
    """Stands in for a neuron while calibration runs: the exact function, with statistics."""

    def __init__(
        self, function: str, scalar: Scalar | None, site: str, role: str, centers: bool = True
    ) -> None:
        super().__init__()
        self.function, self.site, self.role = function, site, role
        self.scalar = scalar or FUNCTIONS[function].scalar
        self.statistics = Statistics(centers=centers)

    def forward(self, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Tensor:
        """f(x), after x (only the elements in ``where``) has been recorded."""
        try:
            self.statistics.update(x, where, dim if self.function == "identity" else None)
        except ValueError as not_finite:
            raise CalibrationError(
                f"calibration met {not_finite} at {self.site} ({self.role}); remove the batch or mend the model, the range "
                "of a neuron must be finite"
            ) from None
        return self.scalar(x)
