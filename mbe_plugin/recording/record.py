"""record(): listening to the neurons of a converted network while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock

import torch
from torch import Tensor, nn

from mbe_plugin.node import MBENode
from mbe_plugin.operators import SpikingOperator
from mbe_plugin.operators.neuron import CalibratedNode, Counted, SpikeListener
from mbe_plugin.operators.observer import spread
from mbe_plugin.recording.deliveries import Deliveries, Delivery, Ledger, told
from mbe_plugin.recording.events import NeuronEvents, Recording
from mbe_plugin.recording.listening import Listener, listening
from mbe_plugin.recording.looking import looking, refuse_compiled
from mbe_plugin.recording.selection import chosen, receiving
from mbe_plugin.recording.trains import numbers_of, train_of


@contextmanager
def record(
    snn: nn.Module,
    sites: str | Iterable[str] | None = None,
    trains: bool = False,
    most: int | None = None,
    deliveries: bool = False,
) -> Iterator[Recording]:
    """Record what every neuron sends in the forwards inside the ``with`` block: spikes per step and basis, side events.

    snn: a converted network, or a module that holds one. sites: names or shell patterns of the sites whose trains to
    record, such as "encoder.layer.0.*" or ("*:gelu", "head:linear"); all by default. A train that several sites read is
    sent and recorded once, as the first one's. trains: keep the trains too, one Train per call of a neuron.
    most: look at so many evenly spread elements of a call only, for estimates; at all of them by default.
    deliveries: count, too, the synaptic operations that events cause, by the site that receives them, with each element's
    own fan-out; pairs of events where two trains are multiplied. Costs time, see docs/energy.md.

    Blocks may be nested or overlap. Forwards that other threads run meanwhile are recorded too. Nothing waits for the
    device, but for a neuron's first train. A copy of the network that is made inside the block is not recorded.
    Raises ConversionError for a module without neurons, and in a compiled forward; ValueError for sites that are not
    there, for ``trains`` or ``deliveries`` together with ``most``, and for a ``most`` below 1. With ``deliveries`` the
    forward raises ConversionError where events cannot be followed to the synapses, and names the site.
    """
    if trains and most is not None:
        raise ValueError(f"trains are recorded whole; leave out most={most}, or trains=True")
    if deliveries and most is not None:
        raise ValueError(f"deliveries are counted whole; leave out most={most}, or deliveries=True")
    if most is not None and most < 1:
        raise ValueError(f"most must be 1 or more elements of a call, got {most}")
    recording, adding = Recording(), Lock()
    listeners = [(node, _listener(recording, adding, node, trains, most)) for node in chosen(snn, sites)]
    ledger = told(_Delivered(recording, adding, receiving(snn, sites))) if deliveries else nullcontext()
    with listening(listeners), ledger:
        yield recording


def count_spikes(snn: nn.Module, most: int | None = None) -> AbstractContextManager[Recording]:
    """``record(snn, most=most)``: every neuron's events, without trains."""
    return record(snn, most=most)


class _Delivered(Ledger):
    """The ledger of a recording: what is delivered to some operators."""

    def __init__(self, recording: Recording, adding: Lock, operators: set[SpikingOperator]) -> None:
        self.adding, self.operators = adding, operators
        self.found = recording.deliveries = {}

    def delivered(self, operator: SpikingOperator, delivery: Delivery) -> None:
        """See Ledger."""
        if operator in self.operators:
            with self.adding:
                self._of(operator, delivery.function).add(delivery)

    def added(self, operator: SpikingOperator, function: str, additions: int) -> None:
        """See Ledger."""
        if operator in self.operators:
            with self.adding:
                found = self._of(operator, function)
                found.additions = (found.additions or 0) + additions

    def _of(self, operator: SpikingOperator, function: str) -> Deliveries:
        return self.found.setdefault((operator.site, function), Deliveries())


def _listener(
    recording: Recording, adding: Lock, node: CalibratedNode, trains: bool, most: int | None
) -> SpikeListener:
    numbers: list[MBENode] = []  # of the neuron, once a train is kept

    def listen(x: Tensor, where: Tensor | None, shared: Tensor | None, counted: Counted) -> None:
        refuse_compiled()
        with looking():
            counts, tally = _sent(node, x.detach(), where, shared, most, counted)
            with adding:
                neuron = _neuron(recording, node, counts, trains)
                neuron.add(counts, tally)
                if neuron.calls is not None:
                    numbers[:] = numbers or [numbers_of(node)]
                    neuron.calls.append(train_of(numbers[0], x.detach(), where, shared))

    return Listener(listen, counts_suffice=not trains and most is None)


def _neuron(recording: Recording, node: CalibratedNode, like: Tensor, trains: bool) -> NeuronEvents:
    key = node.site, node.role
    if key not in recording.neurons:
        tally = torch.zeros(3, dtype=torch.int64, device=like.device)
        recording.neurons[key] = NeuronEvents(
            torch.zeros_like(like), node.bases_per_element, tally, [] if trains else None
        )
    return recording.neurons[key]


def _sent(
    node: CalibratedNode,
    x: Tensor,
    where: Tensor | None,
    shared: Tensor | None,
    most: int | None,
    counted: Counted,
) -> tuple[Tensor, Tensor]:
    """Counts [T, N] and tally [3] of one call; see NeuronEvents. counted: by the kernel, which looked at all elements."""
    if most is None and counted is not None:
        counts, exponents, given = counted
        elements = sampled = _how_many(x, where) if given is None else given
    else:
        part = spread(x, None, most)
        took_part = None if where is None else spread(where.expand(x.shape), None, most)
        counts, exponents = node.spike_counts(part, took_part)
        elements, sampled = _how_many(x, where), _how_many(part, took_part)
    if shared is not None:
        exponents = torch.full_like(exponents, shared.numel() if node.scale == "token" else 0)
    else:  # rounded, in whole numbers
        exponents = (2 * exponents * elements + sampled) // (2 * sampled).clamp_min(1)
    return counts, torch.stack([elements, exponents, sampled])


def _how_many(x: Tensor, where: Tensor | None) -> Tensor:
    """The elements in ``where``, int64, on x's device."""
    if where is not None:
        return torch.count_nonzero(where)
    return torch.full((), x.numel(), dtype=torch.int64, device=x.device)
