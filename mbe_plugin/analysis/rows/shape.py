"""Rows of one neuron's approximation: what it computes, over its calibrated range."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.analysis.rows.places import Row, neuron_at
from mbe_plugin.conversion.network import module_function
from mbe_plugin.conversion.vocabulary.catalogue import scalar_of
from mbe_plugin.fitting import FUNCTIONS
from mbe_plugin.fitting.functions import Scalar
from mbe_plugin.neuron.scaling import scale_by_power_of_two
from mbe_plugin.operators import CalibratedNode, SharedScaleNode

POINTS = 161
DEEP = -6.0  # 2^x is looked at from here on: what lies below is 0 to the eye
WIDE = 100.0  # a range of positive numbers whose ends are further apart is looked at by octaves


def approximation(snn: nn.Module, site: str, role: str | None = None, points: int = POINTS) -> list[Row]:
    """A row for each of some inputs over a neuron's calibrated range: the exact value and the decoded one.

    role: of the neuron at its site, the first by default. A neuron whose scale comes from each token or channel is shown in
    units of that scale. Raises ValueError for a site or role that is not there.
    """
    node = neuron_at(snn, site, role)
    x, exact, decoded = curve_of(node, exact_function(snn, node), points)
    names = ("x", "exact", "decoded")
    return [
        dict(zip(names, values, strict=True))
        for values in zip(x.tolist(), exact.tolist(), decoded.tolist(), strict=True)
    ]


def exact_function(snn: nn.Module, node: CalibratedNode) -> Scalar:
    """What a neuron of a converted network approximates, a function of float64."""
    if node.function in FUNCTIONS:
        return FUNCTIONS[node.function].scalar
    site = next(site for site in conversion_of(snn).sites if site.name == node.site)
    if site.unit is not None:
        return module_function(snn.get_submodule(site.path))
    known, scalar = scalar_of(site.op, site.static)
    return scalar or FUNCTIONS[known].scalar


def curve_of(node: CalibratedNode, exact: Scalar, points: int = POINTS) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [points] over the range of a neuron, exact values and decoded ones, in float64 on the CPU."""
    x = _inputs(node, points)
    with torch.no_grad():
        decoded = _decoded(node, x.float().to(node.th.device)).double().cpu()
        return x, exact(x).double(), decoded


def _inputs(node: CalibratedNode, points: int) -> Tensor:
    """Numbers of float32, as float64."""
    low, high = node.calibrated.tolist()
    if isinstance(node, SharedScaleNode) and node.scale in ("token", "channel"):
        low, high = -1.0, 1.0
    if node.function == "exp2":
        low = min(max(low, DEEP), high - 1)
    if 0 < low < high / WIDE:
        x = torch.logspace(math.log10(low), math.log10(high), points)
    else:
        x = torch.linspace(low, high, points)
    return x.float().double()


def _decoded(node: CalibratedNode, x: Tensor) -> Tensor:
    if not isinstance(node, SharedScaleNode):
        return node.decoded(x)
    if node.scale != "tensor":
        return node.single_step_forward(x)
    reduced = scale_by_power_of_two(node.without_dead_zone(x), -node.exponents)
    return scale_by_power_of_two(node.single_step_forward(reduced), node.exponents)
