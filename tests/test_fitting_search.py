"""The parts of a fit: segments against brute force, simulator and read-out against independent code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbe_plugin.fitting.bases import (
    WIDTH,
    halving_shapes,
    powers,
    published_tables_of,
    read_out,
    simulate,
    tables_of,
)
from mbe_plugin.fitting.grids import Grid, focused_grid
from mbe_plugin.fitting.search import Freedom, Problem, search, thinned
from mbe_plugin.fitting.segments import curvature_segments, line_bound, optimal_segments
from mbe_plugin.neuron.dynamics import reference_spikes


def _shapes(seed: int, count: int) -> np.ndarray:
    random = np.random.Generator(np.random.PCG64(seed))
    width = random.uniform(0.2, 3, count) * random.choice([-1, 1], count)
    decays = random.uniform(0.3, 0.95, (count, 3))
    shapes = np.concatenate([np.stack([random.uniform(-1, 1, count), width], 1), decays], 1)
    return shapes.astype(np.float32).astype(np.float64)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 20))
def test_simulated_outputs_are_the_reference_dynamics(seed, steps):
    shapes = _shapes(seed, 5)
    x = np.linspace(-2, 2, 173)
    tables = tables_of(shapes, np.ones(5), np.zeros(1), steps)
    spikes = reference_spikes(torch.from_numpy(x).float(), tables)
    decoded = torch.zeros(5, 173)
    for t in range(steps):
        decoded = decoded + spikes[t] * tables.intensity[t][:, None]
    assert np.array_equal(simulate(x, shapes, steps).astype(np.float32), decoded.numpy())


def test_the_short_cut_for_binary_codes_equals_the_loop():
    x = np.linspace(-1, 3, 997)
    shapes = halving_shapes(np.array([0.1, 2.0]), np.array([1.7, -0.9]))
    almost = np.concatenate([shapes, _shapes(0, 1)])  # one other decay sends all through the loop
    assert np.array_equal(simulate(x, shapes, 9), simulate(x, almost, 9)[:2])


def test_published_tables_fire_like_the_shapes_they_come_from():
    shapes = _shapes(3, 4)
    shapes[:, 0] = 0.0
    x = np.linspace(-2, 2, 400)
    tables = published_tables_of(shapes, np.full(4, 0.7), 0.25, 10)
    assert tables.offset.abs().max() == 0
    assert tables.gain.abs().tolist() == [1.0] * 4
    spikes = reference_spikes(torch.from_numpy(x).float(), tables).double()
    y = torch.einsum("tnm,tn,n->m", spikes, tables.intensity.double(), tables.weight.double()) + 0.25
    expected = 0.7 * simulate(x, shapes, 10).sum(0) + 0.25
    same = np.abs(y.numpy() - expected) < 1e-5
    assert same.mean() > 0.99  # a rescaled threshold may flip a spike at equality


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6))
def test_read_out_is_the_least_squares_solution(seed, count):
    random = np.random.Generator(np.random.PCG64(seed))
    columns, y = random.standard_normal((count, 60)), random.standard_normal(60)
    weight = random.uniform(0.1, 1, 60)
    weights, constant, error = read_out(columns, y, weight)
    design = np.concatenate([np.ones((1, 60)), columns]).T * np.sqrt(weight)[:, None]
    expected, residual, *_ = np.linalg.lstsq(design, y * np.sqrt(weight), rcond=None)
    assert np.allclose([constant, *weights], expected, atol=1e-8)
    assert error == pytest.approx(residual[0], rel=1e-9)


def test_read_out_gives_a_repeated_column_no_weight():
    column = np.linspace(0, 1, 50) ** 2
    weights, constant, error = read_out(np.stack([column, column]), 3 * column + 1, np.ones(50))
    assert weights[1] == 0
    assert (weights[0], constant) == (pytest.approx(3), pytest.approx(1))
    assert error < 1e-20


def _even_grid(scalar, low, high, points):
    borders = np.linspace(low, high, points + 1)
    x = (borders[1:] + borders[:-1]) / 2
    return Grid(x, borders, np.full(points, 1 / points), scalar(x))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("scalar", [np.exp, np.sqrt, lambda x: np.maximum(x, 0.7), np.sin])
def test_optimal_segments_match_brute_force(scalar, steps):
    grid = _even_grid(scalar, 0.0, 2.0, 24)

    def line_error(start, stop):
        x, y = grid.x[start:stop], grid.y[start:stop]
        fitted = np.polyval(np.polyfit(x, y, 1), x) if stop - start > 1 else y
        slope = np.polyfit(x, y, 1)[0] if stop - start > 1 else 0.0
        width = grid.borders[stop] - grid.borders[start]
        code = (stop - start) * (slope * width) ** 2 * 4.0**-steps / 12
        return (((y - fitted) ** 2).sum() + code) / 24

    def total(edges):
        return sum(line_error(a, b) for a, b in itertools.pairwise(edges))

    best = min(total((0, *inner, 24)) for inner in itertools.combinations(range(1, 24), 2))
    found = optimal_segments(grid, 3, steps, tails=False)
    assert total(found.edges) == pytest.approx(best, rel=1e-6, abs=1e-15)


def test_line_bound_is_the_known_optimum_of_a_parabola():
    # N equal segments of x^2: (f'' h^2)^2 / 720 each, f'' = 2
    for segments in (1, 2, 4, 8):
        grid = _even_grid(np.square, 0.0, 1.0, 8192)
        assert line_bound(grid, segments) == pytest.approx(4 / 720 / segments**4, rel=0.01)


def test_closed_form_is_close_to_the_optimum_for_many_segments():
    grid = focused_grid(np.exp, 0.0, 3.0)

    def cost(found):
        total = 0.0
        for a, b in itertools.pairwise(found.edges):
            part = grid.part(a, b)
            total += read_out(part.x[None], part.y, part.weight)[2]
        return total

    for steps in (12, 16):
        closed, best = curvature_segments(grid, 16, steps), optimal_segments(grid, 16, steps)
        assert cost(closed) < 1.1 * cost(best)


@settings(max_examples=25, deadline=None)
@given(low=st.floats(-100, 10), width=st.floats(0.1, 200), count=st.integers(0, 300), seed=st.integers(0, 99))
def test_grids_tile_the_domain(low, width, count, seed):
    samples = None
    if count:
        samples = np.random.Generator(np.random.PCG64(seed)).standard_normal(count) * 3
    grid = focused_grid(np.tanh, low, low + width, samples, points=256)
    assert grid.borders[0] == low
    assert grid.borders[-1] == low + width
    assert (np.diff(grid.borders) > 0).all()
    assert ((grid.x >= grid.borders[:-1]) & (grid.x <= grid.borders[1:])).all()
    assert grid.weight.sum() == pytest.approx(1)
    assert (grid.weight > 0).all()


def test_sample_weights_count_the_samples():
    samples = np.array([0.1, 0.1, 0.9, 5.0])  # the last lies outside and counts at the end
    grid = focused_grid(np.square, 0.0, 1.0, samples, points=64)
    share = grid.weight[grid.borders[1:] <= 0.5].sum()
    assert share == pytest.approx(0.98 * 0.5 + 0.02 * 0.5, abs=0.03)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(2, 12), decays=st.booleans())
def test_search_never_makes_it_worse_and_respects_what_is_fixed(seed, steps, decays):
    x = (np.arange(200) + 0.5) / 200
    problem = Problem(x, np.sqrt(x), np.full(200, 1 / 200), steps, Freedom(decays=decays))
    start = halving_shapes(np.zeros(2), np.array([0.4, 1.0]))
    found = search(problem, start, 480, seed)

    def error(shapes):
        return read_out(simulate(x, shapes, steps), problem.y, problem.weight)[2]

    assert error(found) <= error(start) * (1 + 1e-9)
    again = search(problem, found, 48, seed + 1)  # from a good place most candidates are worse
    assert error(again) <= error(found) * (1 + 1e-9)
    assert (found[:, 0] == 0).all()
    assert (found[:, WIDTH] > 0).all()
    assert decays or (found[:, 2:] == 0.5).all()
    assert np.array_equal(found, search(problem, start, 480, seed))


def test_search_finds_a_planted_neuron():
    x = (np.arange(400) + 0.5) / 400
    planted = np.array([[0.13, 0.61, 0.5, 0.5, 0.5]])
    y = 2 * simulate(x, planted, 8)[0] - 1
    problem = Problem(x, y, np.full(400, 1 / 400), 8, Freedom(offset=True))
    start = halving_shapes(np.array([0.0]), np.array([1.0]))
    before = read_out(simulate(x, start, 8), y, problem.weight)[2]
    found = search(problem, start, 4800)
    assert read_out(simulate(x, found, 8), y, problem.weight)[2] < 0.01 * before


def test_thinning_keeps_the_weight():
    grid = _even_grid(np.exp, 0.0, 1.0, 3001)
    problem = thinned(grid, 4, Freedom())
    assert problem.weight.sum() == pytest.approx(1)
    assert len(problem.x) <= 1024


def test_powers_are_exact_products():
    decays = np.array([0.5, 0.7, 1.0])
    table = powers(decays, 5)
    assert table[0].tolist() == [1, 0.5, 0.25, 0.125, 0.0625]
    assert table[1, 3] == 0.7 * 0.7 * 0.7
    assert table[2].tolist() == [1] * 5
