"""Functions of one number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mbe_plugin.neuron.scaling import binary_exponent, compute_dtype, scale_by_power_of_two
from mbe_plugin.operators.base import SpikingOperator

LOG2_E = math.log2(math.e)


class Unary(SpikingOperator):
    """One neuron for the function itself (arXiv:2508.07710): GELU, SiLU, tanh, 1/x, ...

    masked: f(-inf), None if it is not finite: what is masked so sends no spikes and reads it.
    """

    def __init__(self, neuron: nn.Module, masked: float | None = None) -> None:
        super().__init__()
        self.neuron, self.masked = neuron, masked

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        if self.masked is None:
            return self.neuron(x)
        masked = x == -torch.inf
        if not torch.compiler.is_compiling() and x.device.type == "cpu" and not bool(masked.any()):
            return self.neuron(x)
        y = self.neuron(torch.where(masked, 0.0, x), where=~masked)
        return torch.where(masked, self.masked, y)


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


class Logarithm(SpikingOperator):
    """log_b(x) = (log2(m) + e) / log2(b), x = m * 2^e, m in [1, 2): log2(m) by a neuron, e the exponent.

    x = 0 gives -inf and x < 0 NaN, as the function does; neither sends spikes.
    """

    exact_parts = "the exponent of the input, added"

    def __init__(self, neuron: nn.Module, log2_base: float = LOG2_E, shift: float = 0.0) -> None:
        super().__init__()
        self.neuron, self.log2_base, self.shift = neuron, log2_base, shift

    def forward(self, x: Tensor) -> Tensor:
        """log_b(x + shift)."""
        work = x.to(compute_dtype(x))
        work = work + self.shift if self.shift else work
        sent = (work > 0) & torch.isfinite(work)
        exponent = torch.where(sent, binary_exponent(work) - 1, 0)
        mantissa = torch.where(sent, scale_by_power_of_two(work, -exponent), 1.0)
        log2 = self.neuron(mantissa, where=sent) + exponent
        return (torch.where(sent, log2, torch.log2(work.detach())) / self.log2_base).to(x.dtype)


class Periodic(SpikingOperator):
    """sin(x) = (-1)^k sin(x - k pi): a neuron for half a turn, [-pi/2, pi/2]; cos(x) = sin(x + pi/2)."""

    exact_parts = "the whole half turns, subtracted, and their sign"

    def __init__(self, neuron: nn.Module, function: str) -> None:
        super().__init__()
        self.neuron, self.shift = neuron, {"sin": 0.0, "cos": math.pi / 2}[function]

    def forward(self, x: Tensor) -> Tensor:
        """sin(x) or cos(x)."""
        wide = x.double() + self.shift
        half_turns = torch.round(wide.detach() / math.pi)
        y = self.neuron((wide - math.pi * half_turns).to(compute_dtype(x)))
        return torch.where(half_turns % 2 == 0, y, -y).to(x.dtype)


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
