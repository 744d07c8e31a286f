"""What a fit hands back: the tables, what they approximate, and how well."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.fitting.functions import StandardFunction
from mbe_plugin.neuron.tables import Tables
from mbe_plugin.node import MBENode

DENSE_POINTS = 100_000


@dataclass(frozen=True)
class Errors:
    """Errors of a neuron on some inputs, against the function in float64; spikes are per element.

    ``relative`` is the largest |error| / |f|, where |f| is at least 1e-12; ``normalized`` is the root mean
    square error over f's root mean square.
    """

    mean_squared: float
    maximum: float
    relative: float
    normalized: float
    spikes: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Tables of one neuron, what they approximate, and how well.

    Errors are those of the float32 neuron against the function in float64 on ``DENSE_POINTS`` evenly
    spaced points of the domain; the ``sample_`` figures are on the values given to fit(), NaN without.
    ``spikes_per_element`` is the mean over the samples if there are any, else over the domain. All are
    measured when first asked for, since measuring takes longer than a fit in closed form.
    """

    target: StandardFunction
    domain: tuple[float, float]
    tables: Tables
    family: str = "routed"
    samples: Tensor | None = field(default=None, repr=False)

    @property
    def function(self) -> str:
        """The function's name."""
        return self.target.name

    @property
    def reduction(self) -> str:
        """Name of the range reduction that the tables are made for."""
        return self.target.reduction

    @property
    def time_steps(self) -> int:
        """T."""
        return self.tables.time_steps

    @property
    def bases(self) -> int:
        """N, over all signs and segments."""
        return self.tables.bases

    @property
    def bases_per_element(self) -> int:
        """How many of the N bases can fire for one element."""
        return self.tables.bases_per_bank

    @property
    def distinct_outputs(self) -> int:
        """Upper bound on distinct read-outs: N(2^T - 1) + 1 in parallel, N 2^T with one basis per element."""
        return self.tables.distinct_outputs

    @cached_property
    def errors(self) -> Errors:
        """Errors on the dense grid."""
        return self.errors_on(self.dense_grid())

    @cached_property
    def sample_errors(self) -> Errors | None:
        """Errors on the samples given to fit(), clamped to the domain; None without samples."""
        if self.samples is None:
            return None
        met = self.samples.detach().reshape(-1).float().cpu()
        return self.errors_on(met.clamp(*self.domain))

    @property
    def mean_squared_error(self) -> float:
        """On the dense grid."""
        return self.errors.mean_squared

    @property
    def max_error(self) -> float:
        """On the dense grid."""
        return self.errors.maximum

    @property
    def relative_error(self) -> float:
        """Largest |error| / |f| on the dense grid."""
        return self.errors.relative

    @property
    def sample_mean_squared_error(self) -> float:
        """On the samples, NaN without."""
        return self.sample_errors.mean_squared if self.sample_errors else float("nan")

    @property
    def sample_max_error(self) -> float:
        """On the samples, NaN without."""
        return self.sample_errors.maximum if self.sample_errors else float("nan")

    @property
    def spikes_per_element(self) -> float:
        """Mean over the samples if there are any, else over the dense grid."""
        return (self.sample_errors or self.errors).spikes

    def node(self) -> MBENode:
        """A new neuron with these tables."""
        return MBENode(self.tables, self.reduction)

    def dense_grid(self, points: int = DENSE_POINTS) -> Tensor:
        """Evenly spaced inputs, float32 [points]: the domain, or all mantissas that the reduction leaves."""
        low, high = self.target.measured or self.domain
        step = (high - low) / points
        return (low + step * (torch.arange(points, dtype=torch.float64) + 0.5)).float()

    def errors_on(self, x: Tensor) -> Errors:
        """Errors of the neuron on float32 inputs x of any shape."""
        reduced = self.function == "identity" or self.target.measured is not None
        node = MBENode(self.tables, self.reduction if reduced else "none")
        exact = self.target.scalar(x.double())
        error = node(x).double() - exact
        counts, _ = node.spike_counts(x)
        mean_squared = error.square().mean()
        return Errors(
            mean_squared=mean_squared.item(),
            maximum=error.abs().max().item(),
            relative=(error.abs() / exact.abs().clamp_min(1e-12)).max().item(),
            normalized=(mean_squared / exact.square().mean().clamp_min(1e-300)).sqrt().item(),
            spikes=counts.sum().item() / x.numel(),
        )

    def plot(self, axes: Any = None) -> Any:
        """Draw the function, the neuron and its error into two matplotlib axes; returns the figure.

        axes: a pair of axes, made if left out. Raises ImportError with the command to install matplotlib.
        """
        from mbe_plugin.fitting.plot import plot_fit

        return plot_fit(self, axes)
