"""Fits of the routed family: one halving basis per segment, knots where they pay most.

For S segments the read-out of each is one least-squares line, so the fit is: choose the knots, then solve.
``curvature_edges`` is the closed form (equal shares of |f''|^(2/5), which is optimal for many
segments); ``optimal_edges`` is the exact optimum over a grid of candidate knots, by dynamic programming,
counting also the error of the T-step code within each segment. Both are deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from mbe_plugin.neuron.tables import Tables, check_bases, check_time_steps, segment_tables

Array = NDArray[np.float64]

CANDIDATES = 256  # knots tried in the first pass; the second pass looks 1/16 of a cell around each
POINTS_PER_CANDIDATE = 16


@dataclass(frozen=True)
class Grid:
    """Sample points of the domain, ascending, with the cells' borders and how much each cell counts."""

    x: Array  # [M]
    borders: Array  # [M + 1]
    weight: Array  # [M], sums to 1


def uniform_grid(low: float, high: float, points: int = CANDIDATES * POINTS_PER_CANDIDATE) -> Grid:
    """Every part of [low, high] counts the same."""
    borders = np.linspace(low, high, points + 1)
    return Grid((borders[1:] + borders[:-1]) / 2, borders, np.full(points, 1 / points))


def sampled_grid(low: float, high: float, samples: Array, floor: float = 0.02) -> Grid:
    """Cells count as the samples fall; a share ``floor`` of the weight stays uniform over the domain.

    Half of the borders are quantiles of the samples, so that a few huge values do not
    decide the resolution of the many small ones.
    """
    points = CANDIDATES * POINTS_PER_CANDIDATE // 2
    inside = np.clip(samples, low, high)
    quantiles = np.quantile(inside, np.linspace(0, 1, points + 1))
    borders = np.unique(np.concatenate([np.linspace(low, high, points + 1), quantiles]))
    counts, _ = np.histogram(inside, borders)
    uniform = np.diff(borders) / (high - low)
    weight = (1 - floor) * counts / max(len(inside), 1) + floor * uniform
    return Grid((borders[1:] + borders[:-1]) / 2, borders, weight / weight.sum())


def curvature_edges(grid: Grid, y: Array, segments: int, kinks: tuple[float, ...] = ()) -> Array:
    """Edges [S + 1] that give every segment the same share of (weight density * f''^2)^(1/5)."""
    width = np.diff(grid.borders)
    slope = np.gradient(y, grid.x)
    density = (grid.weight / width * np.gradient(slope, grid.x) ** 2) ** 0.2 * width
    share = np.concatenate([[0.0], np.cumsum(density + 1e-3 * density.sum() * width / width.sum())])
    inner = np.interp(np.linspace(0, share[-1], segments + 1)[1:-1], share, grid.borders)
    for kink in kinks:
        if len(inner) and grid.borders[0] < kink < grid.borders[-1]:
            inner[np.argmin(np.abs(inner - kink))] = kink
    return np.concatenate([grid.borders[:1], np.sort(inner), grid.borders[-1:]])


def optimal_edges(grid: Grid, y: Array, segments: int, time_steps: int) -> Array:
    """Edges [S + 1] of least squared error, line fit and T-step code together, on the grid's borders."""
    cost = _SegmentCost(grid, y, time_steps)
    last = len(grid.x)
    chosen = np.unique(np.linspace(0, last, CANDIDATES + 1).round().astype(int))
    edges = _shortest_path(cost, [chosen] * (segments + 1), segments, last)
    reach = max(last // CANDIDATES, 1)
    near = [np.unique(np.clip(np.arange(e - reach, e + reach + 1), 0, last)) for e in edges]
    near[0], near[-1] = np.array([0]), np.array([last])
    return grid.borders[_shortest_path(cost, near, segments, last)]


class _SegmentCost:
    """Weighted squared error of the best line plus the code's rounding, for any run of grid cells."""

    def __init__(self, grid: Grid, y: Array, time_steps: int) -> None:
        x = grid.x - grid.x.mean()
        y = y - np.average(y, weights=grid.weight)
        w = grid.weight
        moments = np.stack([w, w * x, w * y, w * x * x, w * x * y, w * y * y])
        self.sums = np.concatenate([np.zeros((6, 1)), np.cumsum(moments, axis=1)], axis=1)
        self.borders = grid.borders
        self.code_variance = 4.0**-time_steps / 12

    def __call__(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Array:
        s = self.sums[:, stop] - self.sums[:, start]
        mass = np.maximum(s[0], 1e-300)
        xx = np.maximum(s[3] - s[1] * s[1] / mass, 0)
        xy = s[4] - s[1] * s[2] / mass
        yy = np.maximum(s[5] - s[2] * s[2] / mass, 0)
        slope = np.where(xx > 1e-18, xy / np.maximum(xx, 1e-18), 0.0)
        line = np.maximum(yy - slope * xy, 0)
        width = self.borders[stop] - self.borders[start]
        return line + s[0] * (slope * width) ** 2 * self.code_variance


def _shortest_path(
    cost: _SegmentCost, layers: list[NDArray[np.int64]], segments: int, last: int
) -> NDArray[np.int64]:
    """Indices of the S + 1 edges of least total cost; layer i lists the candidates of edge i."""
    layers = [np.array([0]), *layers[1:-1], np.array([last])]
    best, back = np.zeros(1), []
    for left, right in pairwise(layers):
        start, stop = left[:, None], right[None, :]
        allowed = start < stop
        step = cost(np.minimum(start, stop), np.maximum(start, stop))
        total = np.where(allowed, best[:, None] + step, np.inf)
        back.append(total.argmin(axis=0))
        best = total.min(axis=0)
    place, path = 0, [last]
    for i in range(segments - 1, -1, -1):
        place = back[i][place]
        path.append(layers[i][place])
    return np.array(path[::-1])


def tables_for_edges(
    grid: Grid, y: Array, edges: Array, time_steps: int, *, mirrored: bool = False
) -> Tables:
    """Solve each segment's read-out by weighted least squares on the codes it will really send.

    A segment whose line would change the total squared error by less than 1 % of it stays silent.
    """
    edges = edges.astype(np.float32).astype(np.float64)
    segments = len(edges) - 1
    index = np.clip(np.searchsorted(edges, grid.x, side="right") - 1, 0, segments - 1)
    codes = 2.0**time_steps
    place = (grid.x - edges[index]) / np.diff(edges)[index]
    digits = np.clip(np.floor(place * codes), 0, codes - 1) / codes

    def total(values: Array) -> Array:
        return np.bincount(index, values, segments).astype(np.float64, copy=False)

    w = grid.weight + 1e-12
    mass = total(w)
    mean_p, mean_y = total(w * digits) / mass, total(w * y) / mass
    dp, dy = digits - mean_p[index], y - mean_y[index]
    pp, py = total(w * dp * dp), total(w * dp * dy)
    slopes = np.where(pp > 0, py / np.where(pp > 0, pp, 1), 0.0)
    error = (w * (dy - slopes[index] * dp) ** 2).sum()
    silent = slopes * py <= 0.01 * error / segments
    slopes = np.where(silent, 0.0, slopes)
    intercepts = mean_y - slopes * mean_p
    return segment_tables(
        time_steps,
        torch.from_numpy(edges),
        torch.from_numpy(slopes),
        torch.from_numpy(intercepts),
        silent=torch.from_numpy(silent),
        mirrored=mirrored,
    )


def identity_tables(time_steps: int, bases: int) -> Tables:
    """The identity on mantissas [0.5, 1), both signs: N / 2 equal segments each; relative error N^-1 2^-T.

    Not fitted: place p in a segment of width h reads its midpoint, left + h (p + 2^-(T + 1)). With
    N = 2 it is the plain T-step binary code behind an implied leading one.
    """
    check_time_steps(time_steps)
    check_bases(bases)
    segments = max(bases // 2, 1)
    if 2 * segments != bases or segments & (segments - 1):
        raise ValueError(f"an identity neuron needs N = 2, 4, 8, ... bases (two signs), got {bases}")
    edges = torch.linspace(0.5, 1.0, segments + 1, dtype=torch.float64)
    width = torch.full((segments,), 0.5 / segments, dtype=torch.float64)
    middle = edges[:-1] + width * 2.0 ** -(time_steps + 1)
    return segment_tables(time_steps, edges, width, middle, mirrored=True)


def shared_scale_tables(time_steps: int, bases: int) -> Tables:
    """The identity on magnitudes [0, 1), both signs, for a scale that many elements share.

    N / 2 segments per sign: the binades [1/2, 1), [1/4, 1/2), ... and one for everything below. The lowest
    reads its left edge, so that zero decodes to zero; the others read the middle of a step.
    """
    check_time_steps(time_steps)
    check_bases(bases)
    segments = max(bases // 2, 1)
    edges = torch.cat([torch.zeros(1), torch.exp2(torch.arange(1.0 - segments, 1.0))]).to(torch.float64)
    width = edges[1:] - edges[:-1]
    middle = edges[:-1] + width * 2.0 ** -(time_steps + 1)
    middle[0] = 0.0
    return segment_tables(time_steps, edges, width, middle, mirrored=True)
