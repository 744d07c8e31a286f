"""Sent: what the train behind a decoded value sends, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.recording.event_lists import EventList


@dataclass(frozen=True, eq=False)
class Sent:
    """Events per element of a value [...]; whole numbers in float32, so that any function which moves values moves them.

    spikes: spikes. side: side events, which meet every synapse as a spike does: exponents with sign and segment, constants
    of banks. shared: the exponents that several elements have in common, each at the first of them (None: there are none).
    paired: of two trains multiplied element by element, pairs of spikes, and all pairs with a side event among them; pairs
    have been added up to the value where they were formed. bases: how many bases an element drives; of pairs, how many
    pairs of them. listed: the events themselves, in networks that are run by them (simulate="events").
    """

    spikes: Tensor
    side: Tensor
    shared: Tensor | None = None
    paired: bool = False
    bases: int = 1
    listed: EventList | None = None

    @cached_property
    def events(self) -> Tensor:
        """spikes + side."""
        return self.spikes + self.side

    def moved(self, move: Callable[[Tensor], Tensor]) -> Sent:
        """The same where the values have been moved so."""
        shared = None if self.shared is None else move(self.shared)
        listed = None if self.listed is None else self.listed.moved(move)
        return replace(self, spikes=move(self.spikes), side=move(self.side), shared=shared, listed=listed)

    def times(self, other: Sent) -> Sent:
        """The pairs of two trains multiplied element by element, with broadcasting."""
        spikes, events = self.spikes * other.spikes, self.events * other.events
        own = [s.expand(events.shape) for s in (self.shared, other.shared) if s is not None]
        shared = sum(own[1:], own[0]) if own else None
        listed = None
        if self.listed is not None and other.listed is not None:
            listed = self.listed.times(other.listed)
        return Sent(spikes, events - spikes, shared, True, self.bases * other.bases, listed)


def sent_by(node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Sent:
    """What a neuron sends in the call node(x, dim, where)."""
    if not isinstance(node, SharedScaleNode):
        return Sent(*node.events(node.without_dead_zone(x), where), bases=node.bases_per_element)
    reduced, exponent = node.scaled(x, dim)
    shared = None
    if node.scale == "token":
        shared = torch.zeros(reduced.shape, device=x.device)
        (shared.narrow(dim, 0, min(1, shared.shape[dim])) if exponent.dim() else shared).fill_(1.0)
    return Sent(*node.events(reduced, where), shared, bases=node.bases_per_element)
