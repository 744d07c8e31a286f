"""The routed families: one basis per segment, and an element drives only the basis of its segment.

'routed': binary codes, so each segment reads a line. 'curved': the paper's three decays are searched too, per
segment. A basis whose decays are above 1/2 spends some of its T steps on redundancy and bends: it
follows the curvature of its segment (docs/neuron.md), with fewer spikes than the binary code.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from mbe_plugin.fitting.bases import (
    OFFSET,
    WIDTH,
    Array,
    halving_shapes,
    read_out,
    simulate,
    tables_of,
)
from mbe_plugin.fitting.grids import Grid
from mbe_plugin.fitting.search import Freedom, Problem, best_start, search
from mbe_plugin.fitting.segments import Segments
from mbe_plugin.neuron.tables import Tables, check_bases, check_time_steps, segment_tables

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
    ends = grid.borders.astype(np.float32).astype(np.float64)[segments.ramps]
    shapes = halving_shapes(ends[:, 0], ends[:, 1] - ends[:, 0])
    weights, constants, errors, gained = np.zeros((4, count))
    for i, (start, stop) in enumerate(itertools.pairwise(segments.edges)):
        part = grid.part(start, stop)
        shapes[i] = _improved(part, shapes[i], time_steps, evaluations // count, curved)
        column = simulate(part.x, shapes[i : i + 1], time_steps)
        weight, constants[i], errors[i] = read_out(column, part.y, part.weight)
        weights[i] = weight[0]
        gained[i] = _spread(part) - errors[i]
    silent = gained <= 0.01 * errors.sum() / count
    for i in np.flatnonzero(silent):
        part = grid.part(*segments.edges[i : i + 2])
        constants[i] = (part.weight * part.y).sum() / max(part.weight.sum(), 1e-300)
    shapes[silent, WIDTH], weights[silent] = np.inf, 0.0  # gain 0: never fires
    breakpoints = grid.borders[segments.edges[1:-1]]
    return tables_of(shapes, weights, constants, time_steps, breakpoints)


def _improved(part: Grid, shape: Array, time_steps: int, evaluations: int, curved: bool) -> Array:
    if evaluations < 1:
        return shape
    problem = Problem(
        part.x, part.y, part.weight, time_steps, MOVE_ALL if curved else MOVE_EDGES
    )
    start = best_start(problem, bent_starts(shape)) if curved else shape[None]
    return search(problem, start, evaluations)[0]


def bent_starts(shape: Array) -> Array:
    """The binary code of a segment and codes with larger decays that fill it, from either end, [K, 5]."""
    starts = [shape]
    left, width = shape[OFFSET], shape[WIDTH]
    for decay, ratio, margin, fill in itertools.product(
        (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85), (0.95, 0.98), (0.02, 0.08), (0.9, 1.1, 1.4)
    ):
        # all T spikes of a basis add up to width / (2 (1 - decay))
        reach = 2 * (1 - decay) * width * fill
        rest = [decay, decay, decay * ratio]
        starts.append(np.array([left + margin * width, reach, *rest]))
        starts.append(np.array([left + (1 + margin) * width, -reach, *rest]))
    return np.stack(starts)


def _spread(part: Grid) -> float:
    mean = (part.weight * part.y).sum() / max(part.weight.sum(), 1e-300)
    return float((part.weight * (part.y - mean) ** 2).sum())


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
