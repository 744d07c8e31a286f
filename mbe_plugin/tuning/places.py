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
from mbe_plugin.conversion.build import NeuronBuilder
from mbe_plugin.conversion.following.routed import CONTAINER
from mbe_plugin.conversion.sites import Site
from mbe_plugin.conversion.vocabulary.catalogue import WEIGHTLESS
from mbe_plugin.operators import CalibratedNode, EncodedCall


@dataclass
class Place:
    """The neuron that encodes the input of a layer; layers that read one tensor have one each. menu: what it can be."""

    site: Site
    operator: EncodedCall
    operand: str
    config: MBEConfig
    menu: Sequence[Mapping[str, Any]]

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

    def neuron(self, choice: int) -> CalibratedNode:
        """A new neuron with one of the menu's settings."""
        sites = (*self.config.sites, ("*", dict(self.menu[choice])))
        node = NeuronBuilder(self.site, replace(self.config, sites=sites))(self.role, "identity")
        assert isinstance(node, CalibratedNode)
        return node

    def take(self, choice: int) -> None:
        """Put the neuron of a choice in this place of the network."""
        self.node = self.neuron(choice)

    def override(self, choice: int) -> tuple[str, dict[str, Any]]:
        """The entry of MBEConfig.sites that makes this choice."""
        return f"{escape(self.site.name)}|{self.role}", dict(self.menu[choice])


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
            place = Place(site, operator, operand, config, menu)
            # the notice knows every neuron of the network, none of which is to be copied along
            place.node = copy.deepcopy(place.node, {id(place.node.notice): place.node.notice})
            found.append(place)
    return found
