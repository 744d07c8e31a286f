"""What every backend's kernels are tried on: neurons of every form, rows of scores, and whole networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

import mbe_plugin
from mbe_plugin import MBENode, fit
from mbe_plugin.fitting.segments import identity_tables
from mbe_plugin.neuron.tables import mirrored_tables
from mbe_plugin.operators import CalibratedNode


def fitted_neurons(functions: Iterable[str]) -> dict[str, MBENode]:
    """The routed neurons of these functions, and a short, a signed, two published ones and an identity by steps."""
    nodes = {name: fit(name, time_steps=16, bases=64).node() for name in functions}
    nodes["gelu T=4"] = fit("gelu", time_steps=4, bases=16).node()
    reciprocal = fit("reciprocal", time_steps=8, bases=8).tables
    nodes["signed reciprocal"] = MBENode(mirrored_tables(reciprocal), "reciprocal")
    nodes["published gelu"] = fit("gelu", time_steps=8, bases=4, family="published").node()
    nodes["published exp2"] = fit("exp2", time_steps=8, bases=4, family="published").node()
    nodes["steps"] = MBENode(identity_tables(8, 8), "identity", simulate="steps")
    return nodes


def scores(*shape: int) -> Tensor:
    """Rows of scores with masks of both kinds, a row masked throughout, infinities and NaN."""
    x = torch.randn(shape) * 5
    rows = x.view(-1, shape[-1])
    rows[1, ::2] = -torch.inf
    rows[2, 1:] = torch.finfo(torch.float32).min
    rows[3] = -torch.inf
    rows[4, 0], rows[5, -1], rows[6, 0] = torch.inf, torch.nan, -torch.nan
    rows[7] *= 40  # weights too small to be sent
    rows[8] = 1e-42
    return x


def counted_forward(snn: nn.Module, backend: str, x: Tensor) -> tuple[Tensor, Any, Any]:
    """What a network gives on a backend, on the CPU; and of its neurons what they met, and what they sent."""
    mbe_plugin.set_backend(snn, backend)
    nodes = [n for n in snn.modules() if isinstance(n, CalibratedNode)]
    for neuron in nodes:
        neuron.reset_counts()
    with torch.no_grad(), mbe_plugin.count_spikes(snn) as spikes:
        y = snn(x).cpu()
    met = [(int(n.seen), int(n.outside), int(n.beyond)) for n in nodes]
    return y, met, {key: (n.counts.tolist(), n.tally.tolist()) for key, n in spikes.neurons.items()}
