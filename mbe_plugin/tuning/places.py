"""Places: the neurons that encode what meets weights, which is where a network's energy goes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

from torch import nn

from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion.build import NeuronBuilder, dead_zone_of
from mbe_plugin.conversion.following.routed import CONTAINER
from mbe_plugin.conversion.sites import Site
from mbe_plugin.conversion.vocabulary.catalogue import WEIGHTLESS
from mbe_plugin.operators import CalibratedNode, EncodedCall


@dataclass
class Place:
    """The neuron that encodes the input of a layer; layers that read one tensor have one each.

    codes: a neuron without a dead zone for each different code of the menu. choices: for each of the menu's settings its
    code's number and its dead zone.
    """

    site: Site
    operator: EncodedCall
    operand: str
    codes: list[CalibratedNode]
    choices: list[tuple[int, float]]

    @property
    def role(self) -> str:
        """The neuron's, in its site."""
        return f"encoders.{self.operand}"

    @property
    def node(self) -> CalibratedNode:
        """The neuron that is there now."""
        node = self.operator.encoders[self.operand]
        assert isinstance(node, CalibratedNode)
        return node

    @node.setter
    def node(self, node: CalibratedNode) -> None:
        node.site, node.role = self.site.name, self.role
        self.operator.encoders[self.operand] = node

    def take(self, choice: int) -> None:
        """Put the neuron of a choice in this place of the network."""
        code, dead_zone = self.choices[choice]
        node = copy.deepcopy(self.codes[code])
        node.dead_zone = dead_zone
        self.node = node

    def override(self, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The entry of MBEConfig.sites that makes this choice."""
        return f"{escape(self.site.name)}|{self.role}", dict(settings)


def places_of(
    snn: nn.Module, sites: Sequence[Site], config: MBEConfig, menu: Sequence[Mapping[str, Any]]
) -> list[Place]:
    """The places of a converted network, in order, each with a neuron of its own from now on.

    sites: as calibration knows them, with what the neurons saw.
    """
    found: list[Place] = []
    operators, kept = getattr(snn, CONTAINER)._modules, conversion_of(snn).kept_exact
    for site in sites:
        operator = None if site.name in kept else operators.get(site.key)
        if not isinstance(operator, EncodedCall) or len(site.dims) != 1 or site.op in WEIGHTLESS:
            continue
        for operand in operator.encoders:
            place = Place(site, operator, operand, [], [])
            place.node = copy.deepcopy(place.node)
            _offer(place, config, menu)
            found.append(place)
    return found


def _offer(place: Place, config: MBEConfig, menu: Sequence[Mapping[str, Any]]) -> None:
    numbers: dict[tuple, int] = {}
    for settings in menu:
        code = {name: value for name, value in settings.items() if name != "dead_zone"}
        key = tuple(sorted(code.items()))
        if key not in numbers:
            numbers[key] = len(place.codes)
            place.codes.append(_neuron(place.site, place.role, config, {**code, "dead_zone": 0.0}))
        share = settings.get("dead_zone", config.setting(place.site.name, "dead_zone", place.role))
        place.choices.append((numbers[key], dead_zone_of(share, place.site.roles[place.role])))


def _neuron(site: Site, role: str, config: MBEConfig, settings: Mapping[str, Any]) -> CalibratedNode:
    builder = NeuronBuilder(site, replace(config, sites=(*config.sites, ("*", dict(settings)))))
    node = builder(role, "identity")
    assert isinstance(node, CalibratedNode)
    return node
