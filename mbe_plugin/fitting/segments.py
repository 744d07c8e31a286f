"""Where the segments of a neuron begin and end: knots where they pay most.

``curvature_segments`` is the closed form (the density of knots that is optimal for many segments);
``optimal_segments`` is the exact optimum over a grid of candidate knots, by dynamic programming, counting
also the error of the T-step code within each segment. Both are deterministic.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mbe_plugin.fitting.grids import Array, Grid
from mbe_plugin.neuron.tables import Tables, check_bases, check_time_steps, segment_tables

Index = NDArray[np.int64]

CANDIDATES = 256  # knots tried in the first pass (4 N if more); the second looks at all cells around each


@dataclass(frozen=True)
class Segments:
    """S segments as cell indices of a grid: ``edges`` [S + 1] of the banks, ``ramps`` [S, 2] of the codes.

    A ramp fills its bank, except where the first or last bank has a flat tail that needs no spikes.
    """

    edges: Index
    ramps: Index


def curvature_segments(grid: Grid, segments: int, time_steps: int, kinks: tuple[float, ...] = ()) -> Segments:
    """Knots by the density n(x) of segments that is optimal for many: no candidates, no search.

    A segment of width 1/n costs f''^2 n^-4 / 720 for its line and f'^2 4^-T n^-2 / 12 for its code, per
    unit of weight. At the optimum 4 f''^2 n^-5 / 720 + 2 f'^2 4^-T n^-3 / 12 is the same everywhere; the sum
    of the two solutions stands for the root.
    """
    width = np.diff(grid.borders)
    density = grid.weight / width
    slope = np.gradient(grid.y, grid.x)
    bend = np.gradient(slope, grid.x)
    line = (density * bend**2 * (4 / 720)) ** (1 / 5) * width
    code = (density * slope**2 * (2 / 12 * 4.0**-time_steps)) ** (1 / 3) * width
    low, high = -200.0, 200.0  # log of the multiplier
    for _ in range(60):
        middle = (low + high) / 2
        count = line.sum() * np.exp(-middle / 5) + code.sum() * np.exp(-middle / 3)
        low, high = (middle, high) if count > segments else (low, middle)
    share = line * np.exp(-low / 5) + code * np.exp(-low / 3)
    share = share + max(1e-3 * share.sum(), 1e-100) * width / width.sum()  # no part is left out
    n = share / share.sum() * segments / width
    error = (grid.weight * ((bend / n**2) ** 2 / 720 + (slope / n) ** 2 * 4.0**-time_steps / 12)).sum()
    share = np.concatenate([[0.0], np.cumsum(share)])
    inner = np.interp(np.linspace(0, share[-1], segments + 1)[1:-1], share, grid.borders)
    for kink in kinks:
        if len(inner) and grid.borders[0] < kink < grid.borders[-1]:
            inner[np.argmin(np.abs(inner - kink))] = kink
    last = len(grid.x)
    edges = np.searchsorted(grid.borders, np.sort(inner))
    # at least one cell per segment
    edges = np.maximum.accumulate(np.maximum(edges, np.arange(1, segments)) - np.arange(segments - 1))
    edges = np.minimum(edges + np.arange(segments - 1), last - np.arange(segments - 1, 0, -1))
    edges = np.concatenate([[0], edges, [last]])
    ramps = np.stack([edges[:-1], edges[1:]], axis=1)
    # what lies within the expected error of the value at an end needs no spikes
    away = [np.flatnonzero((grid.y - end) ** 2 > error) for end in grid.y[[0, -1]]]
    if len(away[0]) and len(away[1]):
        ramps[0, 0] = min(away[0][0], edges[1] - 1)
        ramps[-1, 1] = max(away[1][-1] + 1, edges[-2] + 1)
    return Segments(edges, ramps)


def optimal_segments(grid: Grid, segments: int, time_steps: int, tails: bool = True) -> Segments:
    """The segments of least squared error, line fit and T-step code together, on the grid's borders.

    With ``tails`` the first and the last bank may keep a flat part outside the ramp, where that pays.
    """
    last = len(grid.x)
    candidates = max(CANDIDATES, 4 * segments)
    chosen = np.unique(np.linspace(0, last, candidates + 1).round().astype(np.int64))
    cost = _SegmentCost(grid, time_steps)
    start, stop = np.minimum.outer(chosen, chosen), np.maximum.outer(chosen, chosen)
    line, flat = cost.line_and_flat(start, stop)
    above = chosen[:, None] < chosen[None, :]
    line, flat = np.where(above, line, np.inf), np.where(above, flat, np.inf)
    best: tuple[float, Index, tuple[bool, bool]] | None = None
    for tail in [(False, False), (True, False), (False, True), (True, True)] if tails else [(False, False)]:
        layers = [flat] * tail[0] + [line] * segments + [flat] * tail[1]
        total, path = _shortest_path(layers)
        if best is None or total < 0.9 * best[0]:  # a tail must pay
            best = total, chosen[path], tail
    assert best is not None
    _, edges, tail = best
    return _with_tails(_refine(cost, edges, tail, last), tail)


def line_bound(grid: Grid, segments: int) -> float:
    """Squared error of the best function of S lines: what S binary codes cannot go below, whatever T is."""
    edges = optimal_segments(grid, segments, 20, tails=False).edges
    line, _ = _SegmentCost(grid, 20).line_and_flat(edges[:-1], edges[1:])
    return float(line.sum())


class _SegmentCost:
    """Weighted squared error of the best line plus the code's rounding, for any run of grid cells."""

    def __init__(self, grid: Grid, time_steps: int) -> None:
        w = grid.weight
        x = grid.x - (w * grid.x).sum()
        y = grid.y - (w * grid.y).sum()
        moments = np.stack([w, w * x, w * y, w * x * x, w * x * y, w * y * y])
        self.sums = np.concatenate([np.zeros((6, 1)), np.cumsum(moments, axis=1)], axis=1)
        self.borders = grid.borders
        self.code_variance = 4.0**-time_steps / 12

    def line_and_flat(self, start: Index, stop: Index) -> tuple[Array, Array]:
        """Costs of cells start .. stop - 1 with a line's read-out, and with a constant."""
        s = np.take(self.sums, stop, axis=1) - np.take(self.sums, start, axis=1)
        mass = np.maximum(s[0], 1e-300)
        xx = np.maximum(s[3] - s[1] * s[1] / mass, 0)
        xy = s[4] - s[1] * s[2] / mass
        yy = np.maximum(s[5] - s[2] * s[2] / mass, 0)
        slope = np.where(xx > 1e-18, xy / np.maximum(xx, 1e-18), 0.0)
        line = np.maximum(yy - slope * xy, 0)
        width = self.borders[stop] - self.borders[start]
        return line + s[0] * (slope * width) ** 2 * self.code_variance, yy


def _shortest_path(layers: list[Array]) -> tuple[float, Index]:
    """Least total cost from the first to the last candidate, and the candidates passed, one per layer."""
    best, back = layers[0][0], []
    for step in layers[1:]:
        total = best[:, None] + step
        back.append(total.argmin(axis=0))
        best = total.min(axis=0)
    place = layers[0].shape[0] - 1
    path = [place]
    for pointers in reversed(back):
        place = int(pointers[place])
        path.append(place)
    return float(best[-1]), np.array([0, *path[::-1]])


def _refine(cost: _SegmentCost, edges: Index, tail: tuple[bool, bool], last: int) -> Index:
    """The same path again with every border near each edge as a candidate."""
    reach = max(last // CANDIDATES, 1)
    near = [np.arange(max(e - reach, 0), min(e + reach, last) + 1) for e in edges]
    near[0], near[-1] = np.array([0]), np.array([last])
    best, back = np.zeros(1), []
    for i, (left, right) in enumerate(itertools.pairwise(near)):
        start, stop = np.minimum.outer(left, right), np.maximum.outer(left, right)
        line, flat = cost.line_and_flat(start, stop)
        step = flat if (i == 0 and tail[0]) or (i == len(near) - 2 and tail[1]) else line
        total = np.where(left[:, None] < right[None, :], best[:, None] + step, np.inf)
        back.append(total.argmin(axis=0))
        best = total.min(axis=0)
    place, path = 0, [last]
    for i in range(len(back) - 1, -1, -1):
        place = int(back[i][place])
        path.append(int(near[i][place]))
    return np.array(path[::-1])


def _with_tails(edges: Index, tail: tuple[bool, bool]) -> Segments:
    ramps = edges[int(tail[0]) : len(edges) - int(tail[1])]
    banks = ramps.copy()
    banks[0], banks[-1] = edges[0], edges[-1]
    return Segments(banks, np.stack([ramps[:-1], ramps[1:]], axis=1))


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
