"""Sent: what the train behind a decoded value sends, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.recording import event_lists
from mbe_plugin.recording.amplitudes import POWERS_OF_TWO, Amplitudes, amplitudes_of
from mbe_plugin.recording.event_lists import EventList


@dataclass(frozen=True, eq=False)
class Sent:
    """Events per element of a value [...]; whole numbers in float32, so that any function which moves values moves them.

    spikes: spikes. side: side events, which meet every synapse as a spike does: exponents with sign and segment, constants
    of banks. shared: the exponents that several elements have in common, each at the first of them (None: there are none).
    bases: how many bases an element drives; of pairs, how many pairs of them. amplitudes: what the events can be worth.
    factors: of two trains multiplied element by element, the two; then spikes are pairs of spikes, side all pairs with a
    side event among them. Pairs have been added up to the value where they were formed. listed: the events themselves, in
    networks that are run by them (simulate="events").
    """

    spikes: Tensor
    side: Tensor
    shared: Tensor | None = None
    bases: int = 1
    amplitudes: Amplitudes = POWERS_OF_TWO
    factors: tuple[Factor, Factor] | None = None
    listed: EventList | None = None

    @property
    def paired(self) -> bool:
        """Whether events are pairs."""
        return self.factors is not None

    @cached_property
    def events(self) -> Tensor:
        """spikes + side."""
        return self.spikes + self.side

    def moved(self, move: Callable[[Tensor], Tensor]) -> Sent:
        """The same where the values have been moved so."""
        return replace(
            self,
            spikes=move(self.spikes),
            side=move(self.side),
            shared=None if self.shared is None else move(self.shared),
            factors=None
            if self.factors is None
            else (self.factors[0].moved(move), self.factors[1].moved(move)),
            listed=None if self.listed is None else self.listed.moved(move),
        )

    def times(self, other: Sent) -> Sent:
        """The pairs of two trains multiplied element by element, with broadcasting."""
        spikes, events = self.spikes * other.spikes, self.events * other.events
        own = [s.expand(events.shape) for s in (self.shared, other.shared) if s is not None]
        shared = sum(own[1:], own[0]) if own else None
        factors = Factor.of(self, events.shape), Factor.of(other, events.shape)
        amplitudes = self.amplitudes.times(other.amplitudes)
        listed = None
        if self.listed is not None and other.listed is not None:
            listed = self.listed.times(other.listed)
        bases = self.bases * other.bases
        return Sent(spikes, events - spikes, shared, bases, amplitudes, factors, listed)


@dataclass(frozen=True, eq=False)
class Factor:
    """One of two trains multiplied element by element, spread over the product's shape.

    names: which of the train's elements stands where, whole numbers from 1 (None: each in one place).
    """

    sent: Sent
    names: Tensor | None

    @classmethod
    def of(cls, sent: Sent, shape: torch.Size) -> Factor:
        """A train in a product of this shape."""
        names = None
        if sent.spikes.shape != shape:
            wide = torch.float32 if sent.spikes.numel() < 2**24 else torch.float64
            names = torch.arange(1, sent.spikes.numel() + 1, dtype=wide, device=sent.spikes.device)
            names = names.reshape(sent.spikes.shape).expand(shape)
        return cls(sent.moved(lambda t: t.expand(shape)), names)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Factor:
        """See Sent."""
        return Factor(self.sent.moved(move), None if self.names is None else move(self.names))

    def once(self, dim: int) -> Sent | None:
        """The train with one element along dim, if it is the same element everywhere along it."""
        if self.names is None or not self.names.dim():
            return None
        dim = max(dim, -self.names.dim())  # a vector has no other
        if not self.names.shape[dim]:
            return None
        if bool((self.names != self.names.narrow(dim, 0, 1)).any()):
            return None
        return self.sent.moved(lambda t: t.narrow(dim, 0, 1))


def joined(parts: Sequence[Sent], join: Callable[[list[Tensor]], Tensor]) -> Sent:
    """What values send that have been put together so; all of them single trains, or all of them products."""
    first = parts[0]
    shared = None
    if any(p.shared is not None for p in parts):
        shared = join([torch.zeros_like(p.spikes) if p.shared is None else p.shared for p in parts])
    factors = None
    if all(p.factors is not None for p in parts):
        one, other = zip(*(p.factors for p in parts if p.factors is not None), strict=True)
        factors = _joined_factor(one, join), _joined_factor(other, join)
    lists = [p.listed for p in parts if p.listed is not None]
    listed = event_lists.joined(lists, join) if len(lists) == len(parts) else None
    spikes, side = join([p.spikes for p in parts]), join([p.side for p in parts])
    return replace(first, spikes=spikes, side=side, shared=shared, factors=factors, listed=listed)


def _joined_factor(parts: Sequence[Factor], join: Callable[[list[Tensor]], Tensor]) -> Factor:
    names, last = [], 0.0
    for part in parts:
        if part.names is None:
            return Factor(joined([p.sent for p in parts], join), None)
        names.append(torch.where(part.names > 0, part.names.double() + last, 0.0))
        last = float(names[-1].max()) if names[-1].numel() else last
    return Factor(joined([p.sent for p in parts], join), join(names))


def sent_by(node: CalibratedNode, x: Tensor, dim: int = -1, where: Tensor | None = None) -> Sent:
    """What a neuron sends in the call node(x, dim, where)."""
    bases, amplitudes = node.bases_per_element, amplitudes_of(node)
    if not isinstance(node, SharedScaleNode):
        spikes, side = node.events(node.without_dead_zone(x), where)
        return Sent(spikes, side, None, bases, amplitudes)
    reduced, exponent = node.scaled(x, dim)
    shared = None
    if node.scale == "token":
        shared = torch.zeros(reduced.shape, device=x.device)
        (shared.narrow(dim, 0, min(1, shared.shape[dim])) if exponent.dim() else shared).fill_(1.0)
    spikes, side = node.events(reduced, where)
    return Sent(spikes, side, shared, bases, amplitudes)
