"""SpikingJelly 2.0's op_counter: events as synaptic operations, in place of the dense products that simulate them.

The host recognises spikes in tensors of 0 and 1 alone, so it takes a decoded value for a dense operand. Here what a site
computes is hidden from the host's dispatch modes, and ``torch.ops.mbe_plugin.deliveries`` says instead what its events
have caused; the counters get a rule for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mbe_plugin.operators import SpikingOperator
from mbe_plugin.recording import Delivery, Ledger, told

_LIBRARY = torch.library.Library("mbe_plugin", "DEF")
_LIBRARY.define("deliveries(Tensor events, bool synaptic) -> Tensor")
_LIBRARY.impl("deliveries", lambda events, synaptic: events.clone(), "CompositeExplicitAutograd")

Rule = Callable[[tuple, dict[str, Any], Any], int]


def _all(args: tuple, kwargs: dict[str, Any], out: Any) -> int:
    return int(args[0])


def _synaptic(args: tuple, kwargs: dict[str, Any], out: Any) -> int:
    return int(args[0]) if args[1] else 0


def _none(args: tuple, kwargs: dict[str, Any], out: Any) -> int:
    return 0


# what a counter of the host takes for its own, by its class's name; MACCounter has none
_RULES: dict[str, Rule] = {"ACCounter": _all, "SynOpCounter": _synaptic}


@contextmanager
def events_counted(*counters: Any) -> Iterator[None]:
    """Forwards of converted networks are counted by their events while this lasts.

    counters: the host's, which a DispatchCounterMode or a profiler holds. An ACCounter gets every event at every synapse,
    pair, sum and read-out; a SynOpCounter those at synapses and pairs; a MACCounter and others none. What lies between
    sites, and sites that stay exact, are counted as ever. For an energy profiler give its counters::

        profiler = op_counter.SimpleEnergyProfiler()
        profiler.bind_model(snn)
        with events_counted(profiler.mac_counter, profiler.ac_counter, profiler.synop_counter), profiler:
            snn(x)

    Raises TypeError for a counter without rules, and the errors of record(deliveries=True) in the forward.
    """
    for counter in counters:
        if not isinstance(getattr(counter, "rules", None), dict):
            raise TypeError(
                f"{type(counter).__name__} has no rules to add to; pass counters of "
                "spikingjelly.activation_based.op_counter"
            )
    operator = torch.ops.mbe_plugin.deliveries.default
    before = [counter.rules.get(operator) for counter in counters]
    for counter in counters:
        counter.rules[operator] = _RULES.get(type(counter).__name__, _none)
    try:
        with told(_Spoken()):
            yield
    finally:
        for counter, rule in zip(counters, before, strict=True):
            if rule is None:
                counter.rules.pop(operator, None)
            else:
                counter.rules[operator] = rule


class _Spoken(Ledger):
    """Says each delivery by an operator that dispatch modes see, once per operator's call."""

    stands_for = True

    def __init__(self) -> None:
        self.waiting: dict[SpikingOperator, list[tuple[Tensor, bool]]] = {}

    def delivered(self, operator: SpikingOperator, delivery: Delivery) -> None:
        """See Ledger."""
        events = (delivery.spikes + delivery.side).to(torch.int64)
        self.waiting.setdefault(operator, []).append((events, delivery.synapses > 0))

    def finished(self, operator: SpikingOperator) -> None:
        """See Ledger."""
        for events, synaptic in self.waiting.pop(operator, []):
            torch.ops.mbe_plugin.deliveries(events, synaptic)
