"""A bounded, deterministic search over the shapes of parallel bases.

The read-out is linear once the spikes are fixed, so it is solved inside the search: a candidate for one basis
is scored by what it adds to the span of the others. Coordinate by coordinate, in batches, with
steps that shrink on failure. The bound is a number of evaluations, never a time; random numbers come from a
seeded NumPy generator and no sum goes through BLAS, so the result has the same bits on any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mbe_plugin.fitting.bases import OFFSET, RESET, THRESHOLD, WIDTH, Array, orthonormal, simulate
from mbe_plugin.fitting.grids import Grid

BATCH = 24
LARGEST_STEP, SMALLEST_STEP = 0.3, 3e-4


@dataclass(frozen=True)
class Freedom:
    """Which of a shape's numbers the search may move."""

    offset: bool = False
    width: bool = True
    decays: bool = False
    lowest_decay: float = 0.3
    highest_decay: float = 0.97


@dataclass(frozen=True)
class Problem:
    """Inputs, targets and weights [M] of one fit, the number of steps and what may move."""

    x: Array
    y: Array
    weight: Array
    time_steps: int
    freedom: Freedom

    def outputs(self, shapes: Array) -> Array:
        """Outputs [K, M] of shapes [K, 5], times the root of the weights."""
        return simulate(self.x, shapes, self.time_steps) * np.sqrt(self.weight)


def thinned(grid: Grid, time_steps: int, freedom: Freedom, points: int = 1024) -> Problem:
    """The problem on at most about ``points`` cells of a grid, the weights of cells left out added."""
    step = -(-len(grid.x) // points)
    starts = np.arange(0, len(grid.x), step)
    middle = np.minimum(starts + step // 2, len(grid.x) - 1)
    weight = np.add.reduceat(grid.weight, starts)
    return Problem(grid.x[middle], grid.y[middle], weight, time_steps, freedom)


def search(problem: Problem, shapes: Array, evaluations: int, seed: int = 0) -> Array:
    """Shapes [N, 5] of no larger squared error than the given ones; ``evaluations`` candidates are scored."""
    random = np.random.Generator(np.random.PCG64(seed))
    shapes = shapes.copy()
    bases = len(shapes)
    steps = np.full(bases, LARGEST_STEP / 3)
    root = np.sqrt(problem.weight)
    columns, target = problem.outputs(shapes), problem.y * root
    for turn in range(-(-evaluations // BATCH)):
        n = turn % bases
        others = orthonormal(np.concatenate([root[None], np.delete(columns, n, axis=0)]))
        rest = target - np.einsum("n,nm->m", np.einsum("nm,m->n", others, target), others)
        tried = _neighbours(shapes[n], steps[n], problem.freedom, random)
        outputs = problem.outputs(tried)
        gains = _gains(np.concatenate([columns[n : n + 1], outputs]), others, rest)
        best = int(gains[1:].argmax())
        if gains[best + 1] > gains[0]:
            shapes[n], columns[n] = tried[best], outputs[best]
            steps[n] = min(steps[n] * 1.5, LARGEST_STEP)
        else:
            steps[n] = steps[n] * 0.7 if steps[n] > SMALLEST_STEP else LARGEST_STEP
    return shapes


def best_start(problem: Problem, candidates: Array) -> Array:
    """Of single-basis candidates [K, 5], the one of least squared error, [1, 5]."""
    root = np.sqrt(problem.weight)
    others = orthonormal(root[None])
    rest = problem.y * root
    rest = rest - np.einsum("m,m->", others[0], rest) * others[0]
    gains = _gains(problem.outputs(candidates), others, rest)
    return candidates[int(gains.argmax())][None].copy()


def _gains(columns: Array, others: Array, rest: Array) -> Array:
    """How much squared error each column [K, M] removes beside ``others`` (orthonormal) from ``rest``."""
    own = columns - np.einsum("kn,nm->km", np.einsum("km,nm->kn", columns, others), others)
    norm = np.einsum("km,km->k", own, own)
    inner = np.einsum("km,m->k", own, rest)
    usable = norm > 1e-7 * np.einsum("km,km->k", columns, columns)
    return np.where(usable, inner * inner / np.where(usable, norm, 1.0), 0.0)


def _neighbours(shape: Array, step: float, free: Freedom, random: np.random.Generator) -> Array:
    """BATCH variations of one shape, at scales spread around ``step``."""
    scale = step * 10.0 ** random.uniform(-1.5, 0.5, (BATCH, 1))
    z = random.standard_normal((BATCH, 6)) * scale * (random.random((BATCH, 6)) < 0.6)
    tried = np.repeat(shape[None], BATCH, axis=0)
    if free.width:
        tried[:, WIDTH] *= np.exp(z[:, 1])
    if free.offset:
        tried[:, OFFSET] += abs(shape[WIDTH]) * z[:, 0]
        # some keep the far end where it is: the two ends are knots of their own
        held = shape[OFFSET] + shape[WIDTH] - tried[:, OFFSET]
        hold = (random.random(BATCH) < 0.4) & (held * shape[WIDTH] > 0.02 * shape[WIDTH] ** 2)
        tried[hold, WIDTH] = held[hold]
    if free.decays:
        # the three decays of a good basis lie close together: move them as one, and a little apart
        tried[:, THRESHOLD:] += 0.3 * z[:, 2:3] + 0.06 * z[:, 3:6]
        together = random.random(BATCH) < 0.5
        tried[together, THRESHOLD] = tried[together, RESET]
        tried[:, THRESHOLD:] = tried[:, THRESHOLD:].clip(free.lowest_decay, free.highest_decay)
    # exp and pow may differ in the last bit from one processor to the next: do not let it decide
    return tried.astype(np.float32).astype(np.float64)
