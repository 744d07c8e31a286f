"""Functions of one number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mbe_plugin.operators.base import SpikingOperator

LOG2_E = math.log2(math.e)


class Unary(SpikingOperator):
    """One neuron for the function itself (METHOD section 2): GELU, SiLU, tanh, 1/x, ..."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        return self.neuron(x)


class Exponential(SpikingOperator):
    """base^x = 2^floor(z) 2^frac(z), z = x log2(base): the fraction by a neuron, the rest an exponent."""

    def __init__(self, neuron: nn.Module, log2_base: float = LOG2_E, shift: float = 0.0) -> None:
        super().__init__()
        self.neuron, self.log2_base, self.shift = neuron, log2_base, shift

    def forward(self, x: Tensor) -> Tensor:
        """base^x + shift."""
        z = x * self.log2_base
        y = self.neuron(z, where=z != -torch.inf)  # a mask; +inf and NaN are faults, to be seen and counted
        return y + self.shift if self.shift else y


class Rectifier(SpikingOperator):
    """ReLU and its kin: an identity neuron behind the sign split; slope_below 0 is ReLU, -1 is |x|."""

    exact_parts = "the split by sign"

    def __init__(self, neuron: nn.Module, slope_below: float = 0.0) -> None:
        super().__init__()
        self.neuron, self.slope_below = neuron, slope_below

    def forward(self, x: Tensor) -> Tensor:
        """x where x >= 0, slope_below * x elsewhere, encoded."""
        # no product with 0, which would make NaN of -inf
        below = x * self.slope_below if self.slope_below else torch.zeros_like(x)
        return self.neuron(torch.where(x < 0, below, x))
