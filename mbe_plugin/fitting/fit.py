"""fit(): the tables of an MBE neuron for a scalar function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from mbe_plugin.fitting.functions import (
    FUNCTIONS,
    StandardFunction,
    check_domain,
    check_elementwise,
    evaluate,
)
from mbe_plugin.fitting.grids import Array, Grid, focused_grid
from mbe_plugin.fitting.parallel import parallel_fit
from mbe_plugin.fitting.published import VARIANTS, published_fit, published_identity
from mbe_plugin.fitting.result import Fit
from mbe_plugin.fitting.routed import routed_tables
from mbe_plugin.fitting.segments import curvature_segments, identity_tables, optimal_segments
from mbe_plugin.neuron.tables import Tables, check_bases, check_time_steps

# how many candidates a search may score, by family
EVALUATIONS = {
    "routed": 2000,
    "curved": 12000,
    "parallel": 12000,
    **dict.fromkeys(VARIANTS, 12000),
}
FAMILIES = tuple(EVALUATIONS)
MAX_BASES = 256


def fit(
    function: str | Callable[[Tensor], Tensor] | nn.Module,
    domain: tuple[float, float] | None = None,
    time_steps: int = 16,
    bases: int = 8,
    *,
    samples: Tensor | None = None,
    search: bool = True,
    family: str = "routed",
    evaluations: int | None = None,
) -> Fit:
    """Fit an MBE neuron of N = bases bases and T = time_steps steps to a scalar function.

    function: a name ('gelu', 'silu', 'exp2', 'reciprocal', 'rsqrt', 'identity', ...; see FUNCTIONS), an
    elementwise callable or nn.Module on float64 tensors [n]. domain: (low, high); may be left out for a name,
    and is the reduced interval for the functions with a range reduction. samples: values of any shape that
    the neuron will meet; they weigh the squared error.

    family: 'routed' (one binary code per segment), 'curved' (the same with the paper's three decays free, so
    that a basis follows its segment's curvature; no closed-form kernel), 'parallel' (binary codes with an
    offset, all driven by every input), 'published' (the paper's five numbers per basis; '-strict' and
    '-constant' are ablations). search: False for the closed form; ``evaluations`` bounds the candidates
    scored, and defaults to what takes well under a second.

    Deterministic: the same bits every time, on any number of threads. Raises ValueError for a domain that is
    empty, not finite or too narrow for float32, a function that is not elementwise or not finite there, T
    outside 1 .. 20, N outside 1 .. 256, an unknown family and samples that are empty or not finite.
    """
    check_time_steps(time_steps)
    check_bases(bases)
    if bases > MAX_BASES:
        raise ValueError(f"fit() places at most {MAX_BASES} bases, got {bases}")
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {FAMILIES}, got {family!r}")
    if evaluations is not None and (isinstance(evaluations, bool) or evaluations < 0):
        raise ValueError(f"evaluations must be 0 or more, got {evaluations!r}")
    known = _resolve(function)
    low, high = check_domain(known.interval if domain is None else domain)
    budget = 0 if not search else EVALUATIONS[family] if evaluations is None else evaluations
    if known.name == "identity":
        published = family in VARIANTS
        make = published_identity(low, high, time_steps, bases) if published else None
        return Fit(known, (low, high), make or identity_tables(time_steps, bases), family, samples)
    points = 8192 if family == "curved" else 4096 if search else 2048
    grid = _grid(known, low, high, samples, points)
    tables = _tables(grid, known, time_steps, bases, family, search, budget)
    return Fit(known, (low, high), tables, family, samples)


def _tables(
    grid: Grid,
    known: StandardFunction,
    time_steps: int,
    bases: int,
    family: str,
    search: bool,
    budget: int,
) -> Tables:
    if family in VARIANTS:
        return published_fit(grid, time_steps, bases, budget, family)
    if family == "parallel":
        return parallel_fit(grid, time_steps, bases, budget)
    if search:
        segments = optimal_segments(grid, bases, time_steps)
    else:
        segments = curvature_segments(grid, bases, time_steps, known.kinks)
    return routed_tables(grid, segments, time_steps, budget, curved=family == "curved")


def _grid(known: StandardFunction, low: float, high: float, samples: Tensor | None, points: int) -> Grid:
    check_elementwise(known.scalar, low, high, known.name)

    def scalar(x: Array) -> Array:
        return evaluate(known.scalar, torch.from_numpy(x), known.name).numpy()

    values = None if samples is None else _finite_samples(samples)
    return focused_grid(scalar, low, high, values, points)


def _resolve(function: str | Callable[[Tensor], Tensor] | nn.Module) -> StandardFunction:
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise ValueError(f"unknown function {function!r}; known are {sorted(FUNCTIONS)}")
        return FUNCTIONS[function]
    if not callable(function):
        raise ValueError(f"function must be a name or a callable, got {type(function).__name__}")
    name = getattr(function, "__name__", type(function).__name__)
    return StandardFunction(name, function, (-8.0, 8.0))


def _finite_samples(samples: Tensor) -> np.ndarray:
    values = samples.detach().reshape(-1).double().cpu()
    if values.numel() == 0:
        raise ValueError("samples is empty; leave it out to weigh the domain evenly")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("samples holds NaN or infinity; remove those values")
    return values.numpy()
