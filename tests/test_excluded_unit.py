"""A module that is one operator, kept exact: what comes after it is still spiking."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import mbe_plugin


class HandWrittenGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def test_the_linear_layer_behind_it_encodes_its_input() -> None:
    model = nn.Sequential(nn.Linear(4, 8), HandWrittenGelu(), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    config = mbe_plugin.MBEConfig(exclude=("1:*",))
    snn = mbe_plugin.convert(model, [x], config)
    described = mbe_plugin.report(snn)
    assert [site.site for site in described.sites] == ["0:linear", "2:linear"]
    assert described.kept_exact == {"1:gelu_tanh": "excluded by the configuration"}
    assert all(site.neurons for site in described.sites)
    torch.testing.assert_close(snn(x), model(x), rtol=0, atol=1e-3)
