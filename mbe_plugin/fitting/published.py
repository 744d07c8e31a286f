"""The published family: N parallel bases of the paper's five numbers, no offset (arXiv:2508.07710).

What the paper leaves open is fixed here: a leading alpha per basis, one constant in the read-out, and for a
domain that holds both signs a split into relu(x) and relu(-x) whose bases count in N. With tau = dt / ln 2 a
basis is clip(x, 0, 2 alpha), so N bases are a piecewise-linear function with knots at 2 alpha_n: the closed
form. A search then moves the alphas and the three taus of every basis.
"""

from __future__ import annotations

import numpy as np

from mbe_plugin.fitting.bases import (
    RESET,
    THRESHOLD,
    WIDTH,
    Array,
    halving_shapes,
    published_tables_of,
    read_out,
    simulate,
)
from mbe_plugin.fitting.grids import Grid
from mbe_plugin.fitting.search import Freedom, Problem, search, thinned
from mbe_plugin.fitting.segments import optimal_segments
from mbe_plugin.neuron.tables import Tables

VARIANTS = ("published", "published-strict", "published-constant")


def published_fit(
    grid: Grid, time_steps: int, bases: int, evaluations: int, variant: str = "published"
) -> Tables:
    """Tables in the paper's form for the function on the grid.

    variant: 'published', 'published-strict' (an ablation: one alpha for all bases and no split by sign) or
    'published-constant' (the paper's ablation: tables constant in t, so that a basis counts to T).
    """
    if variant == "published-strict":
        return _strict(grid, time_steps, bases, evaluations)
    decays = variant == "published"
    best: tuple[float, Array, Problem] | None = None
    splits = _splits(grid, bases)
    for negative in splits:
        shapes = _knots(grid, time_steps, bases, negative)
        if not decays:
            shapes[:, THRESHOLD:] = 1.0
            shapes[:, WIDTH] *= 2 / time_steps  # T equal spikes of width / 2 fill the interval
        problem = thinned(grid, time_steps, Freedom(decays=decays))
        shapes = search(problem, shapes, evaluations // len(splits))
        error = _error(problem, shapes)
        if best is None or error < best[0]:
            best = error, shapes, problem
    assert best is not None
    return _solved(best[1], best[2])


def published_identity(low: float, high: float, time_steps: int, bases: int) -> Tables:
    """The published identity, which is fixed and not fitted: every basis is the same T-step binary code.

    N equal bases of weight 1 / N, or N / 2 for each sign, on [0, max(|low|, |high|)].
    """
    reach = max(abs(low), abs(high))
    negative = bases // 2 if low < 0 < high and bases > 1 else bases * int(high <= 0)
    sign = np.where(np.arange(bases) < negative, -1.0, 1.0)
    shapes = halving_shapes(np.zeros(bases), reach * sign)
    share = np.where(sign < 0, max(negative, 1), max(bases - negative, 1))
    return published_tables_of(shapes, reach * sign / share, 0.0, time_steps)


def _splits(grid: Grid, bases: int) -> list[int]:
    """How many bases may serve the negative inputs: all choices that leave one for either sign."""
    low, high = grid.borders[0], grid.borders[-1]
    if low >= 0:
        return [0]
    if high <= 0:
        return [bases]
    return list(range(bases + 1)) if bases < 3 else list(range(1, bases))


def _knots(grid: Grid, time_steps: int, bases: int, negative: int) -> Array:
    """Halving bases whose knots are the ends of the best segments of each side, negative ones first."""
    widths: list[float] = []
    for count, sign in ((negative, -1), (bases - negative, 1)):
        if not count:
            continue
        inside = np.flatnonzero(grid.x * sign > 0)
        part = grid.part(int(inside[0]), int(inside[-1]) + 1)
        edges = part.borders[optimal_segments(part, count, time_steps, tails=False).edges]
        ends = edges[1:] if sign > 0 else edges[:-1]
        widths.extend(np.where(np.abs(ends) > 1e-9, ends, sign * 1e-3))
    return halving_shapes(np.zeros(bases), np.array(widths))


def _strict(grid: Grid, time_steps: int, bases: int, evaluations: int) -> Tables:
    """One alpha for all bases, only x itself: the bases differ by their taus alone."""
    reach = max(abs(grid.borders[0]), abs(grid.borders[-1]), 1e-3)
    if grid.borders[-1] > 0:
        reach = grid.borders[-1]
    problem = thinned(grid, time_steps, Freedom(width=False, decays=True))
    spread = np.linspace(0.45, 0.7, bases) if bases > 1 else np.array([0.5])
    best: tuple[float, Array] | None = None
    scales = (1.0, 0.5, 0.25)
    for scale in scales:
        shapes = halving_shapes(np.zeros(bases), np.full(bases, reach * scale))
        shapes[:, THRESHOLD : RESET + 1] = spread[:, None]
        shapes = search(problem, shapes, evaluations // len(scales))
        error = _error(problem, shapes)
        if best is None or error < best[0]:
            best = error, shapes
    assert best is not None
    return _solved(best[1], problem)


def _error(problem: Problem, shapes: Array) -> float:
    columns = simulate(problem.x, shapes, problem.time_steps)
    return read_out(columns, problem.y, problem.weight)[2]


def _solved(shapes: Array, problem: Problem) -> Tables:
    columns = simulate(problem.x, shapes, problem.time_steps)
    weights, constant, _ = read_out(columns, problem.y, problem.weight)
    return published_tables_of(shapes, weights, constant, problem.time_steps)
