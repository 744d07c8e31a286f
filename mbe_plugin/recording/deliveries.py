"""Deliveries: events where they arrive, at the synapses of the site that receives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from mbe_plugin.operators import SpikingOperator
from mbe_plugin.recording.amplitudes import Amplitudes


@dataclass(frozen=True, eq=False)
class Delivery:
    """One call's: so many events (float64 [], whole numbers) have met synapses of this function.

    products: what the function costs on dense operands. bases: how many bases an element drives; of pairs, how many pairs.
    synapses: pairs of an element and a synapse of its own. outputs: sums that the events are added to. amplitudes: what the
    events are worth. weighted: whether the synapses hold constant numbers, not what other events have brought.
    """

    function: str
    spikes: Tensor
    side: Tensor
    products: int
    bases: int
    synapses: int
    outputs: int
    amplitudes: Amplitudes
    weighted: bool


@dataclass(frozen=True)
class SiteCall:
    """One call of a site, as the ANN would compute it.

    op: what it computes. spiking: whether an operator of neurons does it here. products: multiply-accumulates with weights
    or of two activations. elements: the numbers that the function goes through one by one. rows: in how many groups,
    where it has sums over groups. offset: numbers that a bias or an addend is added to. gain: whether a gain multiplies.
    """

    site: str
    op: str
    spiking: bool
    products: int = 0
    elements: int = 0
    rows: int = 0
    offset: int = 0
    gain: bool = False


@dataclass
class Deliveries:
    """Synaptic operations that events caused at one function of a site, in the recorded calls.

    products: multiply-accumulates of the same function on dense operands. spikes_per_basis: the spikes (pairs), each
    delivery's divided by the bases (pairs of bases) that an element drives. arrived: the same events apart by what they are
    worth and what they met, as [spikes and side events, synapses, outputs]. additions: how many were done, one by one, in a
    network that is run by its events (simulate="events"); None in others. Reading a number waits for the device.
    """

    tally: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    products: int = 0
    per_basis: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    arrived: dict[tuple[Amplitudes, bool], Tensor] = field(default_factory=dict)
    additions: int | None = None

    def add(self, delivery: Delivery) -> None:
        """Take in what one call delivered."""
        found = torch.stack([delivery.spikes, delivery.side]).to(torch.int64)
        self.tally = self.tally.to(found.device) + found
        self.per_basis = self.per_basis.to(found.device) + delivery.spikes / delivery.bases
        self.products += delivery.products
        key = delivery.amplitudes, delivery.weighted
        places = torch.tensor([delivery.synapses, delivery.outputs], device=found.device)
        met = torch.cat([found.sum()[None], places])
        before = self.arrived.get(key)
        self.arrived[key] = met if before is None else before.to(met.device) + met

    @property
    def spikes(self) -> int:
        """By spikes, or pairs of spikes."""
        return int(self.tally[0])

    @property
    def side(self) -> int:
        """By side events, pairs with one among them included."""
        return int(self.tally[1])

    @property
    def spikes_per_basis(self) -> float:
        """See the class."""
        return float(self.per_basis)

    @property
    def total(self) -> int:
        """spikes + side."""
        return self.spikes + self.side

    @property
    def per_product(self) -> float:
        """total / products."""
        return self.total / max(self.products, 1)


class Ledger:
    """Who is told of what happens in a forward, in whichever thread; nothing is done with it here.

    everything: whether not of deliveries alone. stands_for: whether the dispatch modes around the forward, such as a
    host's counters, see what ``finished`` calls in place of what an operator computes to simulate its neurons.
    """

    everything = False
    stands_for = False

    def delivered(self, operator: SpikingOperator, delivery: Delivery) -> None:
        """Events have met synapses."""

    def added(self, operator: SpikingOperator, function: str, additions: int) -> None:
        """So many additions have been done for events, one by one."""

    def finished(self, operator: SpikingOperator) -> None:
        """All that one call of an operator delivers has been told; called under the modes around the forward."""

    def called(self, call: SiteCall) -> None:
        """A site has been reached."""

    def computed(self, place: str, function: str, taken: int, given: int) -> None:
        """A function of torch outside all neurons and synapses took so many numbers and gave so many.

        place: the site in whose operator that was, or the path of the module.
        """


_OPENING = Lock()
_open: tuple[Ledger, ...] = ()


def open_ledgers() -> tuple[Ledger, ...]:
    """Those that want to be told now."""
    return _open


@contextmanager
def told(ledger: Ledger) -> Iterator[None]:
    """The ledger is told of what is delivered in every converted network while this lasts."""
    global _open
    with _OPENING:
        _open = (*_open, ledger)
    try:
        yield
    finally:
        with _OPENING:
            _open = tuple(other for other in _open if other is not ledger)
