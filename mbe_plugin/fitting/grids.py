"""Where a fit looks: points of the domain, and how much each counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POINTS = 4096
PROBES = 2048
WIDEST_STEP = 1 / 8
FLAT = 1e-9  # of the span of f: nothing
WIDE = 128.0  # samples beyond it are outliers of an activation function, which is a line or flat there
GOLDEN = (5**0.5 - 1) / 2  # its multiples fill the unit interval evenly


@dataclass(frozen=True)
class Grid:
    """Sample points of the domain, ascending, with the cells' borders, each cell's weight and f there."""

    x: Array  # [M]
    borders: Array  # [M + 1]
    weight: Array  # [M], sums to 1
    y: Array  # [M]

    def part(self, start: int, stop: int) -> Grid:
        """The cells start .. stop - 1, with the weights they have in the whole."""
        inside = slice(start, stop)
        return Grid(self.x[inside], self.borders[start : stop + 1], self.weight[inside], self.y[inside])


def focused_grid(
    scalar: Callable[[Array], Array],
    low: float,
    high: float,
    samples: Array | None = None,
    points: int = POINTS,
) -> Grid:
    """Cells that are narrow where f bends or the samples fall; weights stay uniform, or follow the samples.

    A wide domain is mostly tail: GELU's on (-120, 10) leaves 10 % of evenly spaced points for all that
    happens. Half of the cells are spread evenly over the domain, half by |f''|^(2/5).

    Where samples lie beyond WIDE, the error of large values counts relative to them: rare ones of a network are massive
    activations, all of which its output may hang on, and no segment may be too wide for those at its lower end.
    """
    probe = _probes(scalar, low, high)
    low, high = probe[0], probe[-1]
    bend = np.abs(np.gradient(np.gradient(scalar(probe), probe), probe)) ** 0.4
    width = np.diff(probe) / (high - low)
    cells = (bend[1:] + bend[:-1]) / 2 * width
    share = np.concatenate([[0.0], np.cumsum(cells / max(cells.sum(), 1e-300) + width)])
    borders = np.interp(np.linspace(0, share[-1], points + 1), share, probe)
    borders[0], borders[-1] = low, high
    wide = samples is not None and np.abs(samples).max() > WIDE
    if samples is not None:
        samples = np.sort(np.clip(samples, low, high))
        half = samples[np.linspace(0, len(samples) - 1, points // 2 + 1).round().astype(np.int64)]
        borders = np.unique(
            np.concatenate([borders[::2], half, _octaves(low, high, points // 8) if wide else []])
        )
    # one point anywhere in each cell: midpoints could all fall on the same digit of a binary code
    place = np.arange(len(borders) - 1) * GOLDEN % 1.0
    x = borders[:-1] + np.diff(borders) * place
    y = scalar(x)
    if samples is None or not wide:
        return Grid(x, borders, _weights(borders, samples), y)
    weight = _weights(borders, samples, octaves=True) * _relative(y, scalar(samples))
    return Grid(x, borders, weight / weight.sum(), y)


def _octaves(low: float, high: float, points: int) -> Array:
    """Borders from 1 to either end of the domain, evenly many in each octave."""
    sides = [np.sign(end) * np.geomspace(1.0, abs(end), points) for end in (low, high) if abs(end) > 1]
    inside = np.concatenate(sides)
    return inside[(inside > low) & (inside < high)]


def _probes(scalar: Callable[[Array], Array], low: float, high: float) -> Array:
    """Where f is looked at to see where it bends: evenly, and in a very wide domain densely around 0 as well.

    What activation functions do they do near 0; a step of more than WIDEST_STEP would pass over it. Of a very wide domain
    the ends where f is flat are left out: a neuron saturates there, and sums over them would drown the rest.
    """
    if high - low <= WIDEST_STEP * PROBES:
        return np.linspace(low, high, PROBES + 1)
    near = np.geomspace(WIDEST_STEP / 64, high - low, PROBES // 2)
    near = np.concatenate([[low, high, 0.0], -near, near])
    near = np.unique(near[(near >= low) & (near <= high)])
    values = scalar(near)
    flat = FLAT * np.ptp(values)
    first = int((np.abs(values - values[0]) <= flat).cumprod().sum()) - 1
    last = len(near) - int((np.abs(values - values[-1]) <= flat)[::-1].cumprod().sum())
    if first >= last:  # constant
        first, last = 0, len(near) - 1
    return np.union1d(np.linspace(near[first], near[last], PROBES + 1), near[first : last + 1])


def _weights(borders: Array, samples: Array | None, floor: float = 0.02, octaves: bool = False) -> Array:
    """Each cell's share of the domain, or of the samples with a share ``floor`` of the domain's, or of its octaves'."""
    places = np.sign(borders) * np.log1p(np.abs(borders)) if octaves else borders
    uniform = np.diff(places) / (places[-1] - places[0])
    if samples is None:
        return uniform
    below = np.searchsorted(samples, borders[1:-1])
    counts = np.diff(np.concatenate([[0], below, [len(samples)]]))
    weight = (1 - floor) * counts / len(samples) + floor * uniform
    return weight / weight.sum()


def _relative(y: Array, values: Array) -> Array:
    """1 for values as usual, 1 / y^2 of those that are larger."""
    usual = np.quantile(np.abs(values), 0.9)
    return (usual / np.maximum(np.abs(y), max(usual, 1e-300))) ** 2
