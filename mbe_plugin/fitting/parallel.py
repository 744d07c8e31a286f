"""The parallel family: N binary codes side by side, each with an offset of its own (our extension).

Basis n is clip((x - offset_n) / width_n, 0, 1) in T steps: it bends the sum at two knots, where the
published basis, which starts at 0, has one. N bases are a piecewise-linear function of up to 2 N + 1 pieces,
and a function with a dip below zero, such as GELU, needs no split by sign.
"""

from __future__ import annotations

import numpy as np

from mbe_plugin.fitting.bases import Array, halving_shapes, read_out, simulate, tables_of
from mbe_plugin.fitting.grids import Grid
from mbe_plugin.fitting.search import Freedom, Problem, search, thinned
from mbe_plugin.fitting.segments import curvature_segments, optimal_segments
from mbe_plugin.neuron.tables import Tables

STARTS = 16  # the first is one basis per segment; in the others the two knots of a basis lie apart


def parallel_fit(grid: Grid, time_steps: int, bases: int, evaluations: int) -> Tables:
    """Tables of N bases in one bank: half of the evaluations choose among starts, half polish the best."""
    segments = optimal_segments(grid, bases, time_steps)
    ends = grid.borders[segments.ramps]
    problem = thinned(grid, time_steps, Freedom(offset=True))
    starts = [halving_shapes(ends[:, 0], ends[:, 1] - ends[:, 0])]
    if evaluations:
        starts += _paired_starts(grid, bases, time_steps, np.random.Generator(np.random.PCG64(0)))
    each = evaluations // (2 * len(starts))
    tried = [search(problem, start, each, seed) for seed, start in enumerate(starts)]
    best = min(tried, key=lambda shapes: _solve(problem, shapes)[2])
    shapes = search(problem, best, evaluations // 2)
    weights, constant, _ = _solve(problem, shapes)
    return tables_of(shapes, weights, np.array([constant]), time_steps)


def _paired_starts(grid: Grid, bases: int, time_steps: int, random: np.random.Generator) -> list[Array]:
    """Starts whose 2 N knots lie where the curvature is, paired at random."""
    knots = grid.borders[curvature_segments(grid, 2 * bases, time_steps).edges[1:]]
    starts = []
    for _ in range(STARTS - 1):
        pairs = np.sort(random.permutation(knots).reshape(bases, 2), axis=1)
        starts.append(halving_shapes(pairs[:, 0], pairs[:, 1] - pairs[:, 0]))
    return starts


def _solve(problem: Problem, shapes: Array) -> tuple[Array, float, float]:
    columns = simulate(problem.x, shapes, problem.time_steps)
    return read_out(columns, problem.y, problem.weight)
