"""The routed families: one basis per segment, and an element drives only the basis of its segment.

'routed': binary codes, so each segment reads a line. 'curved': the paper's three decays are searched too, per
segment. A basis whose decays are above 1/2 spends some of its T steps on redundancy and bends: it
follows the curvature of its segment (docs/neuron.md), with fewer spikes than the binary code.
"""

from __future__ import annotations

import itertools

import numpy as np

from mbe_plugin.fitting.bases import (
    DECAY_DIGITS,
    INTENSITY,
    OFFSET,
    THRESHOLD,
    WIDTH,
    Array,
    halving_shapes,
    read_out,
    simulate,
    tables_of,
)
from mbe_plugin.fitting.grids import Grid
from mbe_plugin.fitting.search import Freedom, best_start, search, thinned
from mbe_plugin.fitting.segments import Segments
from mbe_plugin.neuron.tables import Tables

EQUAL = 1.1  # a tenth of the squared error is worth fewer spikes
MOVE_EDGES = Freedom(offset=True)
MOVE_ALL = Freedom(offset=True, decays=True, lowest_decay=0.4)


def routed_tables(
    grid: Grid, segments: Segments, time_steps: int, evaluations: int = 0, curved: bool = False
) -> Tables:
    """Tables for these segments; ``evaluations`` candidates in all improve the bases one by one.

    The read-out of each segment is solved on the codes it will really send. A segment whose basis would lower
    the total squared error by less than 1 % of its share stays silent and reads its constant.
    """
    count = len(segments.ramps)
    ramps = grid.borders.astype(np.float32).astype(np.float64)[segments.ramps]
    width = ramps[:, 1] - ramps[:, 0]
    shapes = halving_shapes(ramps[:, 0], np.where(width > 0, width, 1.0))  # 0 where float32 ran out
    weights, constants, errors, gained = np.zeros((4, count))
    for i, (start, stop) in enumerate(itertools.pairwise(segments.edges)):
        part = grid.part(start, stop)
        # the end of a flat tail is where the membrane starts, so that the tail sends no spikes
        tails = segments.ramps[i, 0] > start, segments.ramps[i, 1] < stop
        ends = (not tails[1], not tails[0]) if any(tails) and not all(tails) else (True, not all(tails))
        shapes[i] = _improved(part, shapes[i], time_steps, evaluations // count, ends, curved)
        shapes[i, THRESHOLD:] = shapes[i, THRESHOLD:].round(DECAY_DIGITS)
        column = simulate(part.x, shapes[i : i + 1], time_steps)
        weight, constants[i], errors[i] = read_out(column, part.y, part.weight)
        weights[i] = weight[0]
        gained[i] = _spread(part) - errors[i]
    silent = gained <= 0.01 * errors.sum() / count
    for i in np.flatnonzero(silent).tolist():
        part = grid.part(*segments.edges[i : i + 2])
        constants[i] = (part.weight * part.y).sum() / max(part.weight.sum(), 1e-300)
    shapes[silent, WIDTH], weights[silent] = np.inf, 0.0  # gain 0: never fires
    breakpoints = grid.borders[segments.edges[1:-1]]
    return tables_of(shapes, weights, constants, time_steps, breakpoints)


def _improved(
    part: Grid, shape: Array, time_steps: int, evaluations: int, ends: tuple[bool, bool], curved: bool
) -> Array:
    """The shape, or a better one: searched from either end of the segment, of two equals the sparer.

    ends: from which end, left or right, a basis may start.
    """
    if evaluations < 1:
        return shape
    problem = thinned(part, time_steps, MOVE_ALL if curved else MOVE_EDGES)
    found = []
    for start in (shape, _turned(shape)):
        if not ends[int(start[WIDTH] < 0)]:
            continue
        first = best_start(problem, bent_starts(start)) if curved else start[None]
        shape = search(problem, first, evaluations // sum(ends))[0]
        column = simulate(part.x, shape[None], time_steps)
        found.append((read_out(column, part.y, part.weight)[2], _spikes(part, shape, time_steps), shape))
    least = min(error for error, _, _ in found)
    return min((f for f in found if f[0] <= EQUAL * least), key=lambda f: f[1])[2]


def _turned(shape: Array) -> Array:
    """The same segment, coded from its other end."""
    turned = shape.copy()
    turned[OFFSET], turned[WIDTH] = shape[OFFSET] + shape[WIDTH], -shape[WIDTH]
    return turned


def _spikes(part: Grid, shape: Array, time_steps: int) -> float:
    """Mean spikes per element, by the weights of the grid."""
    counter = shape[None].copy()
    counter[0, INTENSITY] = 1.0  # the output is then half the number of spikes
    counts = 2 * simulate(part.x, counter, time_steps)[0]
    return float((part.weight * counts).sum())


def bent_starts(shape: Array) -> Array:
    """The binary code of a segment and codes with larger decays that fill it from the same end, [K, 5]."""
    starts = [shape]
    for decay, ratio, margin, fill in itertools.product(
        (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85), (0.95, 0.98), (-0.08, 0.02, 0.08), (0.9, 1.1, 1.4)
    ):
        # all T spikes of a basis add up to width / (2 (1 - decay))
        reach = 2 * (1 - decay) * shape[WIDTH] * fill
        offset = shape[OFFSET] + margin * shape[WIDTH]
        starts.append(np.array([offset, reach, decay, decay, decay * ratio]))
    return np.stack(starts)


def _spread(part: Grid) -> float:
    mean = (part.weight * part.y).sum() / max(part.weight.sum(), 1e-300)
    return float((part.weight * (part.y - mean) ** 2).sum())
