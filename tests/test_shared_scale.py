"""operators/shared_scale.py: identities whose scale many elements share count what saturates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mbe_plugin
from mbe_plugin.operators import SharedScaleNode

SMALL, LARGE = 0.1, 10.0


def network(scale: str) -> nn.Module:
    """One linear layer whose two input channels were calibrated to +-0.1 and +-10."""
    x = torch.tensor([[SMALL, LARGE], [-SMALL, -LARGE]])
    config = mbe_plugin.MBEConfig(scale=scale, margin=0.0)
    return mbe_plugin.convert(nn.Sequential(nn.Linear(2, 2)), [x], config)


def outside(snn: nn.Module) -> float:
    [site] = mbe_plugin.report(snn).sites
    [neuron] = site.neurons
    return neuron.outside * neuron.seen


def test_a_small_channel_that_saturates_is_counted_although_a_large_one_would_hold_it() -> None:
    snn = network("channel")
    with pytest.warns(mbe_plugin.RangeWarning, match=r"0:linear"):
        snn(torch.tensor([[1.0, 1.0]]))
    assert outside(snn) == 1


@pytest.mark.parametrize("scale", ["element", "tensor", "token"])
def test_one_scale_for_both_channels_holds_it(scale: str) -> None:
    snn = network(scale)
    snn(torch.tensor([[1.0, 1.0]]))
    assert outside(snn) == 0


def test_products_of_activations_take_a_scale_per_token_instead_of_per_channel() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.transpose(-2, -1)

    snn = mbe_plugin.convert(Product(), [torch.randn(2, 3, 4)], mbe_plugin.MBEConfig(scale="channel"))
    scales = {m.scale for m in snn.modules() if isinstance(m, SharedScaleNode)}
    assert scales == {"token"}
