"""Logarithms and sines: one interval by a neuron, exponent or whole turns beside it, good for every input."""

import math

import pytest
import torch
from torch import nn

import mbe_plugin
from mbe_plugin import fit

FIT_ERROR = max(fit(name, None, 16, 32).max_error for name in ("log2", "sin"))


class Calls(nn.Module):
    """Two calls, so that the module is no unit of its own."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x) + self.function(y)


def values(low, high, n=200):
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "function", [torch.log, torch.log2, torch.log10, torch.log1p], ids=lambda f: f.__name__
)
def test_a_logarithm_is_as_good_far_from_what_calibration_saw(function):
    snn = mbe_plugin.convert(Calls(function), [((values(1, 2), values(1, 2)), {})])
    x = 2 ** values(-60, 60)
    assert (snn(x, x) - 2 * function(x)).abs().max() <= 2 * FIT_ERROR + 1e-4
    assert all(site.operator == "Logarithm" for site in mbe_plugin.report(snn).sites)


def test_a_logarithm_gives_the_limits_of_the_function():
    snn = mbe_plugin.convert(Calls(torch.log), [((values(1, 2), values(1, 2)), {})])
    x = torch.tensor([0.0, -1.0, math.inf, math.nan])
    torch.testing.assert_close(snn(x, x), 2 * torch.log(x), equal_nan=True)


@pytest.mark.parametrize("function", [torch.sin, torch.cos], ids=lambda f: f.__name__)
@pytest.mark.parametrize("reach", [1.0, 3.0, 1e3])
def test_a_sine_does_not_care_for_whole_turns(function, reach):
    snn = mbe_plugin.convert(Calls(function), [((values(-1, 1), values(-1, 1)), {})])
    x = values(-reach, reach)
    assert (snn(x, x) - 2 * function(x)).abs().max() <= 2 * FIT_ERROR + 1e-5


def test_a_module_that_is_a_sine_is_periodic_too():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    snn = mbe_plugin.convert(nn.Sequential(nn.Linear(4, 4), Sine()), [values(-1, 1, 8).reshape(2, 4)])
    assert [s.operator for s in mbe_plugin.report(snn).sites][-1] == "Periodic"


def test_a_function_with_an_end_is_not_widened_beyond_it():
    snn = mbe_plugin.convert(Calls(torch.acos), [((values(-1, 1), values(-1, 1)), {})])
    x = values(-0.9, 0.9)
    assert (snn(x, x) - 2 * torch.acos(x)).abs().max() < 0.01


def test_layer_norm_output_can_be_viewed_like_torchs():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6)

        def forward(self, x):
            return self.norm(x.transpose(1, 2)).view(-1)

    x = values(-1, 1, 2 * 6 * 5).reshape(2, 6, 5)
    assert mbe_plugin.convert(Viewed(), [x])(x).shape == (60,)
