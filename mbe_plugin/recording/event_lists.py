"""Events one by one: what simulate="events" carries beside a decoded value, and hands to the synapses in the order of time.

Only in such networks. A neuron's call makes a Source; functions that move its decoded value move addresses in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor


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
    """A decoded value [...] as ``constant`` plus the sum of its events; the constant is known before the first of them.

    weight: what its elements have been multiplied by since they were sent, or since two trains were multiplied; the gains
    of the terms have it in them.
    """

    terms: tuple[Term, ...]
    constant: Tensor
    weight: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """What moves with the value."""
        return [self.constant, self.weight, *(t for term in self.terms for t in term.tensors)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> EventList:
        """The same events elsewhere."""
        constant, weight, *rest = tensors
        terms = []
        for term in self.terms:
            terms.append(term.with_tensors(rest[: len(term.tensors)]))
            rest = rest[len(term.tensors) :]
        return EventList(tuple(terms), constant, weight)

    def moved(self, move: Callable[[Tensor], Tensor]) -> EventList:
        """The same where the values have been moved so."""
        return self.with_tensors([move(t) for t in self.tensors])

    def kept(self, where: Tensor) -> EventList:
        """Of the elements in ``where`` alone; the others are 0 without any event."""
        return self.moved(lambda t: torch.where(where, t, 0.0))

    def plus(self, other: Tensor | float) -> EventList:
        """The sum with a constant."""
        constant = torch.as_tensor(other, dtype=self.constant.dtype, device=self.constant.device)
        shape = torch.broadcast_shapes(self.constant.shape, constant.shape)
        return replace(self.moved(lambda t: t.expand(shape)), constant=self.constant + constant)

    def weighed(self, weigh: Callable[[Tensor], Tensor]) -> EventList:
        """The value under a function that is linear and works element by element, such as a product with a constant."""
        constant = weigh(self.constant)
        terms = []
        for term in self.terms:
            addresses = tuple(a.expand(constant.shape) for a in term.addresses)
            terms.append(Term(term.sources, addresses, weigh(term.gain)))
        return EventList(tuple(terms), constant, weigh(self.weight))

    def times(self, other: EventList) -> EventList:
        """The product element by element: pairs of events, and the events of the one where the other has a constant."""
        pairs = [
            Term(
                (*a.sources, *b.sources),
                tuple(torch.broadcast_tensors(*a.addresses, *b.addresses)),
                a.gain * b.gain,
            )
            for a in self.terms
            for b in other.terms
        ]
        mine = self.weighed(lambda t: t * other.constant).terms if other.has_constant else ()
        theirs = other.weighed(lambda t: t * self.constant).terms if self.has_constant else ()
        constant = self.constant * other.constant
        return EventList((*pairs, *mine, *theirs), constant, torch.ones_like(constant))

    @property
    def has_constant(self) -> bool:
        """Whether some constant is not 0."""
        return bool((self.constant != 0).any())

    def settled(self) -> EventList:
        """A single train as one source of its own, whose side events bring the constant where there are some."""
        if len(self.terms) == 1 and not self.has_constant:
            return self
        slots = sorted((step, i, k) for i, term in enumerate(self.terms) for step, (k,) in term.slots())
        fired, amounts = [], []
        for _, i, k in slots:
            [source], [address] = self.terms[i].sources, self.terms[i].addresses
            fired.append(source.fired[k][address.long()])
            amounts.append(source.amounts[k][address.long()] * self.terms[i].gain)
        amounts[0] = amounts[0] + torch.where(fired[0], self.constant, 0.0)
        rest = torch.where(fired[0], 0.0, self.constant)
        return one_train([step for step, _, _ in slots], fired, amounts, rest)

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
    weight = sum((e.weight for e in lists[1:]), lists[0].weight)
    return EventList(tuple(t for e in lists for t in e.terms), constant.to(weight.dtype), weight)


def one_train(
    steps: Sequence[int], fired: Sequence[Tensor], amounts: Sequence[Tensor], constant: Tensor
) -> EventList:
    """The events of one call of a neuron: for each slot its step, which elements send, and how much; [...] each."""
    source = Source(tuple(steps), *(_with_nobody(torch.stack(list(t))) for t in (fired, amounts)))
    addresses = torch.arange(1.0, constant.numel() + 1, dtype=torch.float64, device=constant.device)
    ones = torch.ones_like(constant)
    return EventList((Term((source,), (addresses.reshape(constant.shape),), ones),), constant, ones)


def joined(parts: Sequence[EventList], join: Callable[[list[Tensor]], Tensor]) -> EventList:
    """The events of values that have been put together so."""
    constant, weight = (join([getattr(part, name) for part in parts]) for name in ("constant", "weight"))
    terms = []
    for place, part in enumerate(parts):
        blank = [torch.zeros_like(p.constant) for p in parts]
        for term in part.terms:
            moved = [join([*blank[:place], t, *blank[place + 1 :]]) for t in term.tensors]
            terms.append(term.with_tensors(moved))
    return EventList(tuple(terms), constant, weight)


def _with_nobody(slots: Tensor) -> Tensor:
    flat = slots.flatten(1)
    return torch.cat([flat.new_zeros((flat.shape[0], 1)), flat], dim=1)
