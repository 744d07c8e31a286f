"""Where a row belongs: its site, the site's operator and the layer that holds it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.conversion.following.routed import CONTAINER
from mbe_plugin.operators import CalibratedNode, SpikingOperator

Row = dict[str, Any]

BETWEEN = "between sites"  # what stands for the operator of functions outside all sites
_TO_FIRST_NUMBER = re.compile(r"(?:.*?\.)?\d+(?=\.|$)")


def operators_of(snn: nn.Module) -> dict[str, str]:
    """What every site computes, by its name, in the order in which calibration first reached them."""
    return {site.name: site.op for site in conversion_of(snn).sites}


def layer_of(site: str) -> str:
    """The module that a site belongs to, down to the first numbered one: 'encoder.layer.0'; without number the first."""
    path = site.rpartition(":")[0] if ":" in site else site
    numbered = _TO_FIRST_NUMBER.match(path)
    return numbered[0] if numbered else path.partition(".")[0]


def place(site: str, operators: dict[str, str]) -> Row:
    """The first cells of a site's rows; also of a module's, for what lies between sites."""
    return {"site": site, "layer": layer_of(site), "operator": operators.get(site, BETWEEN)}


def layer_ticks(found: Sequence[Row], most: int) -> dict[int, str]:
    """Names of layers for an axis along rows that stand in the order of the forward, by the place where each begins.

    At most so many, none closer to the last than that allows.
    """
    ticks: dict[int, str] = {}
    apart = len(found) / most
    for start, row in enumerate(found):
        begins = not start or row["layer"] != found[start - 1]["layer"]
        if begins and (not ticks or start - max(ticks) >= apart):
            ticks[start] = row["layer"]
    return ticks


def neurons_at(snn: nn.Module, site: str) -> dict[str, CalibratedNode]:
    """The neurons that a site reads, by their role there; none for a site that stays exact or reads others' trains.

    Raises ValueError for a site that is not there.
    """
    found = next((s for s in conversion_of(snn).sites if s.name == site), None)
    if found is None:
        raise ValueError(f"no site of this network is named {site!r}; mbe_plugin.report(snn) lists all")
    operators: nn.ModuleDict = getattr(snn, CONTAINER)
    if found.key not in operators:
        return {}
    operator = operators[found.key]
    assert isinstance(operator, SpikingOperator)
    return dict(operator.neurons())


def neuron_at(snn: nn.Module, site: str, role: str | None) -> CalibratedNode:
    """One neuron of a site, its first by default. Raises ValueError for a site or role that is not there."""
    found = neurons_at(snn, site)
    if not found:
        raise ValueError(f"{site} has no neuron: it stays exact, or reads the trains of others")
    if role is not None and role not in found:
        raise ValueError(f"{site} has no neuron {role!r}; its neurons are {', '.join(found)}")
    return next(iter(found.values())) if role is None else found[role]
