"""An event is what a neuron sends: a spike, or beside the train a side event (a power of two, with sign and address)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mbe_plugin.recording.deliveries import Deliveries
from mbe_plugin.recording.trains import Train


@dataclass
class NeuronEvents:
    """What one neuron, a role of a site, sent in the recorded calls; the tensors are on the neuron's device.

    counts: spikes per step and basis, int64 [T, N]. tally: how many elements came in, how many side events were sent, how
    many elements were looked at, int64 [3]. bases_per_element: how many of the N bases an element can drive.
    calls: the trains, where they were asked for. Reading a number waits for the device; recording does not.
    Where not every element was looked at, ``total`` and ``exponents`` are estimates.
    """

    counts: Tensor
    bases_per_element: int
    tally: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.int64))
    calls: list[Train] | None = None

    def add(self, counts: Tensor, tally: Tensor) -> None:
        """Take in what one call sent."""
        self.counts += counts.to(self.counts.device)
        self.tally += tally.to(self.tally.device)

    @property
    def time_steps(self) -> int:
        """T."""
        return self.counts.shape[0]

    @property
    def bases(self) -> int:
        """N, over all signs and segments."""
        return self.counts.shape[1]

    @property
    def elements(self) -> int:
        """How many elements came in (took part, where a mask says which)."""
        return int(self.tally[0])

    @property
    def exponents(self) -> int:
        """Side events: the powers of two sent beside the trains, each with its sign and segment's address."""
        return int(self.tally[1])

    @property
    def sampled(self) -> int:
        """How many of the elements were looked at."""
        return int(self.tally[2])

    @property
    def total(self) -> int:
        """All spikes."""
        found, elements, sampled = int(self.counts.sum()), self.elements, self.sampled
        return found if sampled == elements else round(found / max(sampled, 1) * elements)

    @property
    def events(self) -> int:
        """All that was sent: total + exponents."""
        return self.total + self.exponents

    @property
    def per_element(self) -> float:
        """Spikes per element: total / elements."""
        return int(self.counts.sum()) / max(self.sampled, 1)

    @property
    def firing_rate(self) -> float:
        """Spikes / (elements x T x bases_per_element): the share of the slots that an element can fill."""
        return self.per_element / (self.time_steps * self.bases_per_element)

    @property
    def rate_per_step(self) -> float:
        """Spikes / (elements x T): an element's spikes in a step; above 1 only where several bases fire together."""
        return self.per_element / self.time_steps

    @property
    def rate_per_slot(self) -> float:
        """Spikes / (elements x N x T): the share of all slots, idle banks among them."""
        return self.per_element / (self.time_steps * self.bases)

    @property
    def last_step(self) -> int:
        """The last step, from 1, at which any element sent a spike; 0 without spikes."""
        return max((t + 1 for t, n in enumerate(self.counts.sum(1).tolist()) if n), default=0)

    @property
    def trains(self) -> list[Train]:
        """The train of every call, in order. Raises ValueError if none were asked for."""
        if self.calls is None:
            raise ValueError("no trains were recorded; ask for them: mbe_plugin.record(snn, trains=True)")
        return self.calls


@dataclass
class Recording:
    """Events by (site, role), with the totals over all of them; a neuron enters with the first call that it answers.

    deliveries: where they were asked for, the synaptic operations by the site that receives and its function.
    """

    neurons: dict[tuple[str, str], NeuronEvents] = field(default_factory=dict)
    deliveries: dict[tuple[str, str], Deliveries] | None = None

    def by_site(self) -> dict[str, Recording]:
        """The same for each site alone; a train that several sites share belongs to the first."""
        sites: dict[str, Recording] = {}
        for (site, role), neuron in self.neurons.items():
            sites.setdefault(site, Recording()).neurons[site, role] = neuron
        for (site, function), found in (self.deliveries or {}).items():
            part = sites.setdefault(site, Recording())
            part.deliveries = {**(part.deliveries or {}), (site, function): found}
        return sites

    @property
    def synaptic_operations(self) -> int:
        """All deliveries. Raises ValueError if none were asked for."""
        if self.deliveries is None:
            raise ValueError(
                "no deliveries were recorded; ask for them: mbe_plugin.record(snn, deliveries=True)"
            )
        return sum(found.total for found in self.deliveries.values())

    @property
    def total(self) -> int:
        """All spikes."""
        return sum(n.total for n in self.neurons.values())

    @property
    def exponents(self) -> int:
        """All side events."""
        return sum(n.exponents for n in self.neurons.values())

    @property
    def events(self) -> int:
        """All that was sent: total + exponents."""
        return self.total + self.exponents

    @property
    def estimated(self) -> bool:
        """Whether some elements were not looked at."""
        return any(n.sampled != n.elements for n in self.neurons.values())

    @property
    def firing_rate(self) -> float:
        """All spikes / sum of elements x T x bases_per_element."""
        return self._rate(n.bases_per_element for n in self.neurons.values())

    @property
    def rate_per_step(self) -> float:
        """All spikes / sum of elements x T."""
        return self._rate(1 for _ in self.neurons)

    @property
    def rate_per_slot(self) -> float:
        """All spikes / sum of elements x N x T."""
        return self._rate(n.bases for n in self.neurons.values())

    def _rate(self, bases: Iterable[int]) -> float:
        slots = sum(n.elements * n.time_steps * b for n, b in zip(self.neurons.values(), bases, strict=True))
        return self.total / max(slots, 1)
