"""Events one by one: what simulate="events" carries beside a decoded value, and hands to the synapses in the order of time.

Only in such networks. A neuron's call makes a Source; functions that move its decoded value move addresses in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from mbe_plugin.neuron.scaling import scale_by_power_of_two
from mbe_plugin.operators import CalibratedNode, SharedScaleNode


@dataclass(frozen=True, eq=False)
class Source:
    """All events of one call of a neuron: slots K, a side event and T spikes of each basis that an element drives.

    steps: of the slots, ascending. fired: which elements send, bool [K, 1 + n]. amounts: what each adds to the decoded
    value, [K, 1 + n], 0 or anything where nothing is sent. Element 0 is nobody and sends nothing.
    """

    steps: tuple[int, ...]
    fired: Tensor
    amounts: Tensor


@dataclass(frozen=True, eq=False)
class Term:
    """Events, or pairs of events of two sources: addresses [...] in each source, and what every amount is multiplied by."""

    sources: tuple[Source, ...]
    addresses: tuple[Tensor, ...]  # float64, so that any function which moves values moves them exactly
    gain: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """What moves with the value."""
        return [*self.addresses, self.gain]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Term:
        """The same events elsewhere."""
        return replace(self, addresses=tuple(tensors[:-1]), gain=tensors[-1])

    def slots(self) -> list[tuple[int, tuple[int, ...]]]:
        """Step and slot (of each source) of the events; a pair is there when the later one is."""
        every = product(*(range(len(s.steps)) for s in self.sources))
        return [(max(s.steps[k] for s, k in zip(self.sources, slot, strict=True)), slot) for slot in every]

    def sent_in(self, slot: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Where (flat index, int64 [n]) and how much [n]."""
        indices = [address.reshape(-1).long() for address in self.addresses]
        fired = [s.fired[k][i] for s, k, i in zip(self.sources, slot, indices, strict=True)]
        place = torch.stack(fired).all(0).nonzero()[:, 0]
        amount = self.gain.reshape(-1)[place]
        for source, k, index in zip(self.sources, slot, indices, strict=True):
            amount = amount * source.amounts[k][index[place]]
        return place, amount


@dataclass(frozen=True, eq=False)
class EventList:
    """A decoded value [...] as ``constant`` plus the sum of its events; the constant is known before the first of them."""

    terms: tuple[Term, ...]
    constant: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """What moves with the value."""
        return [self.constant, *(t for term in self.terms for t in term.tensors)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> EventList:
        """The same events elsewhere."""
        constant, *rest = tensors
        terms = []
        for term in self.terms:
            terms.append(term.with_tensors(rest[: len(term.tensors)]))
            rest = rest[len(term.tensors) :]
        return EventList(tuple(terms), constant)

    def moved(self, move: Callable[[Tensor], Tensor]) -> EventList:
        """The same where the values have been moved so."""
        return self.with_tensors([move(t) for t in self.tensors])

    def pieces(self, cut: Callable[[Tensor], Sequence[Tensor]]) -> list[EventList]:
        """The same where the values have been cut so."""
        return [self.with_tensors(piece) for piece in zip(*map(cut, self.tensors), strict=True)]

    def kept(self, where: Tensor) -> EventList:
        """Of the elements in ``where`` alone; the others are 0 without any event."""
        return self.moved(lambda t: torch.where(where, t, 0.0))

    def plus(self, other: Tensor | float) -> EventList:
        """The sum with a constant."""
        constant = torch.as_tensor(other, dtype=self.constant.dtype, device=self.constant.device)
        return self.weighed(lambda t: t.expand(torch.broadcast_shapes(t.shape, constant.shape)))._with(
            self.constant + constant
        )

    def _with(self, constant: Tensor) -> EventList:
        return replace(self, constant=constant)

    def with_constant_sent(self) -> EventList:
        """The same with the constant in the side events of a single train, where there is one: slot 0."""
        if not _any(self.constant):
            return self
        [term] = self.terms
        [source], [address] = term.sources, term.addresses
        index = address.reshape(-1).long()
        fired, amounts = source.fired[:, index], source.amounts[:, index] * term.gain.reshape(-1)
        constant = self.constant.reshape(-1)
        amounts[0] += torch.where(fired[0], constant, 0.0)
        whole = _source(source.steps, fired, amounts)
        rest = torch.where(fired[0], 0.0, constant).reshape(address.shape)
        return EventList((Term((whole,), (_addresses(rest),), torch.ones_like(rest)),), rest)

    def weighed(self, weigh: Callable[[Tensor], Tensor]) -> EventList:
        """The value under a function that is linear and works element by element, such as a product with a constant."""
        constant = weigh(self.constant)
        terms = []
        for term in self.terms:
            addresses = tuple(a.expand(constant.shape) for a in term.addresses)
            terms.append(Term(term.sources, addresses, weigh(term.gain)))
        return EventList(tuple(terms), constant)

    def times(self, other: EventList) -> EventList:
        """The product element by element: pairs of events, and the events of the one where the other has a constant."""
        pairs = [
            Term((*a.sources, *b.sources), _spread((*a.addresses, *b.addresses)), a.gain * b.gain)
            for a in self.terms
            for b in other.terms
        ]
        mine = self.weighed(lambda t: t * other.constant).terms if _any(other.constant) else ()
        theirs = other.weighed(lambda t: t * self.constant).terms if _any(self.constant) else ()
        return EventList((*pairs, *mine, *theirs), self.constant * other.constant)

    def by_step(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The events in the order of time: step, places (flat index, int64 [n]) and amounts [n] of all of one slot."""
        every = [(step, i, slot) for i, term in enumerate(self.terms) for step, slot in term.slots()]
        for step, i, slot in sorted(every):
            place, amount = self.terms[i].sent_in(slot)
            if place.numel():
                yield step, place, amount


def sum_of(parts: Iterable[EventList | Tensor]) -> EventList:
    """The events of a sum of values of one shape, of which some are constants."""
    given = list(parts)
    lists = [part for part in given if isinstance(part, EventList)]
    constant = sum((p.constant if isinstance(p, EventList) else p for p in given), torch.zeros(()))
    return EventList(tuple(t for e in lists for t in e.terms), constant.to(lists[0].constant.dtype))


def joined(parts: Sequence[EventList], join: Callable[[list[Tensor]], Tensor]) -> EventList:
    """The events of values that have been put together so."""
    constant = join([part.constant for part in parts])
    terms = []
    for place, part in enumerate(parts):
        blank = [torch.zeros_like(p.constant) for p in parts]
        for term in part.terms:
            moved = [join([*blank[:place], t, *blank[place + 1 :]]) for t in term.tensors]
            terms.append(term.with_tensors(moved))
    return EventList(tuple(terms), constant)


def exponents_of(shared: Tensor, like: Tensor) -> EventList:
    """Exponents that elements share, as many as ``shared`` [...] says: events that add nothing but say how far to shift."""
    nothing = torch.zeros((1, 2), dtype=like.dtype, device=like.device)
    source = Source((0,), torch.tensor([[False, True]], device=like.device), nothing)
    gain = torch.zeros(shared.shape, dtype=like.dtype, device=like.device)
    most = int(shared.max()) if shared.numel() else 0
    terms = [Term((source,), ((shared > n).double(),), gain) for n in range(most)]
    return EventList(tuple(terms), gain)


def events_of(
    node: CalibratedNode,
    x: Tensor,
    dim: int = -1,
    where: Tensor | None = None,
    always: bool = False,
) -> EventList:
    """What a neuron sends in the call node(x, dim, where), by its step loop.

    always: whether every element in ``where`` has a side event, of whatever amount.
    """
    exponent = None
    if isinstance(node, SharedScaleNode):
        x, exponent = node.scaled(x, dim)
    else:
        x = node.without_dead_zone(x)
    slots, rest = node.event_slots(x)
    took_part = torch.ones_like(rest, dtype=torch.bool) if where is None else where.expand(rest.shape)
    steps, fired, amounts = zip(*slots, strict=True)
    sent = [took_part if always and not k else f & took_part for k, f in enumerate(fired)]
    if exponent is not None:
        amounts = tuple(scale_by_power_of_two(a, exponent) for a in amounts)
    source = _source(steps, torch.stack(sent), torch.stack(amounts))
    return EventList((Term((source,), (_addresses(rest),), torch.ones_like(rest)),), rest)


def _source(steps: tuple[int, ...], fired: Tensor, amounts: Tensor) -> Source:
    return Source(steps, _with_nobody(fired), _with_nobody(amounts))


def _addresses(like: Tensor) -> Tensor:
    return torch.arange(1.0, like.numel() + 1, dtype=torch.float64, device=like.device).reshape(like.shape)


def _with_nobody(slots: Tensor) -> Tensor:
    flat = slots.flatten(1)
    return torch.cat([flat.new_zeros((flat.shape[0], 1)), flat], dim=1)


def _spread(addresses: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.broadcast_tensors(*addresses))


def _any(constant: Tensor) -> bool:
    return bool((constant != 0).any())
