"""fit(): the tables of an MBE neuron for a scalar function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mbe_plugin.fitting.functions import (
    FUNCTIONS,
    Scalar,
    StandardFunction,
    check_domain,
    check_elementwise,
    evaluate,
)
from mbe_plugin.fitting.segments import (
    curvature_edges,
    identity_tables,
    optimal_edges,
    sampled_grid,
    tables_for_edges,
    uniform_grid,
)
from mbe_plugin.neuron.tables import Tables, check_bases, check_time_steps
from mbe_plugin.node import MBENode

DENSE_POINTS = 100_000


@dataclass(frozen=True, eq=False)
class Fit:
    """Tables of one neuron, what they approximate, and how well.

    Errors are those of the float32 neuron against the function in float64 on ``DENSE_POINTS`` evenly
    spaced points of the domain; the ``sample_`` figures are on the values given to fit(), NaN without.
    ``spikes_per_element`` is the mean over the samples if there are any, else over the domain.
    """

    function: str
    domain: tuple[float, float]
    tables: Tables
    reduction: str
    mean_squared_error: float
    max_error: float
    relative_error: float
    sample_mean_squared_error: float
    sample_max_error: float
    spikes_per_element: float

    @property
    def time_steps(self) -> int:
        """T."""
        return self.tables.time_steps

    @property
    def bases(self) -> int:
        """N."""
        return self.tables.bases

    def node(self) -> MBENode:
        """A new neuron with these tables."""
        return MBENode(self.tables, self.reduction)


def fit(
    function: str | Callable[[Tensor], Tensor] | nn.Module,
    domain: tuple[float, float] | None = None,
    time_steps: int = 16,
    bases: int = 8,
    *,
    samples: Tensor | None = None,
    search: bool = True,
) -> Fit:
    """Fit an MBE neuron of N = bases halving bases, one per segment, to a scalar function.

    function: a name ('gelu', 'gelu_tanh', 'silu', 'tanh', 'exp2', 'reciprocal', 'rsqrt', 'sqrt',
    'identity', ...), an elementwise callable or nn.Module on float64 tensors [n]. domain: (low, high);
    may be left out for a name, and is the reduced interval for the functions with a range reduction.
    samples: values of any shape that the neuron will meet; they weigh the squared error. search: the exact
    optimum over candidate knots (dynamic programming, tens of milliseconds) instead of the closed form
    (about a millisecond).

    Deterministic: the same bits every time. Raises ValueError for a domain that is empty or not finite,
    a function that is not elementwise or not finite there, T outside 1 .. 20 or N < 1.
    """
    check_time_steps(time_steps)
    check_bases(bases)
    known = _resolve(function)
    low, high = check_domain(known.interval if domain is None else domain)
    if known.name == "identity":
        return measure(known, (low, high), identity_tables(time_steps, bases), samples)
    check_elementwise(known.scalar, low, high, known.name)
    grid = uniform_grid(low, high)
    if samples is not None:
        grid = sampled_grid(low, high, _finite_samples(samples))
    y = evaluate(known.scalar, torch.from_numpy(grid.x), known.name).numpy()
    if search:
        edges = optimal_edges(grid, y, bases, time_steps)
    else:
        edges = curvature_edges(grid, y, bases, known.kinks)
    return measure(known, (low, high), tables_for_edges(grid, y, edges, time_steps), samples)


def measure(
    function: StandardFunction, domain: tuple[float, float], tables: Tables, samples: Tensor | None
) -> Fit:
    """The Fit of given tables: run the neuron on the dense grid and on the samples."""
    low, high = domain
    step = (high - low) / DENSE_POINTS
    dense = (low + step * (torch.arange(DENSE_POINTS, dtype=torch.float64) + 0.5)).float()
    plain = MBENode(tables, "identity" if function.name == "identity" else "none")
    error, exact = _errors(plain, function.scalar, dense)
    relative = (error.abs() / exact.abs().clamp_min(1e-12)).max().item()
    sample_mse = sample_max = float("nan")
    met = dense
    if samples is not None:
        met = samples.detach().reshape(-1).float().cpu().clamp(low, high)
        sample_error, _ = _errors(plain, function.scalar, met)
        sample_mse, sample_max = sample_error.square().mean().item(), sample_error.abs().max().item()
    counts, _ = plain.spike_counts(met)
    return Fit(
        function=function.name,
        domain=domain,
        tables=tables,
        reduction=function.reduction,
        mean_squared_error=error.square().mean().item(),
        max_error=error.abs().max().item(),
        relative_error=relative,
        sample_mean_squared_error=sample_mse,
        sample_max_error=sample_max,
        spikes_per_element=counts.sum().item() / met.numel(),
    )


def _errors(node: MBENode, scalar: Scalar, x: Tensor) -> tuple[Tensor, Tensor]:
    exact = scalar(x.double())
    return node(x).double() - exact, exact


def _resolve(function: str | Callable[[Tensor], Tensor] | nn.Module) -> StandardFunction:
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise ValueError(f"unknown function {function!r}; known are {sorted(FUNCTIONS)}")
        return FUNCTIONS[function]
    if not callable(function):
        raise ValueError(f"function must be a name or a callable, got {type(function).__name__}")
    name = type(function).__name__ if isinstance(function, nn.Module) else function.__name__
    return StandardFunction(name, function, (-8.0, 8.0))


def _finite_samples(samples: Tensor) -> np.ndarray:
    values = samples.detach().reshape(-1).double().cpu()
    if values.numel() == 0:
        raise ValueError("samples is empty; leave it out to weigh the domain evenly")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("samples holds NaN or infinity; remove those values")
    return values.numpy()
