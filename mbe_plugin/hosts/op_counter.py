"""SpikingJelly 2.0's op_counter: events as synaptic operations, in place of the dense products that simulate them.

The host recognises spikes in tensors of 0 and 1 alone, so it takes a decoded value for a dense operand. Here what a site
computes is hidden from the host's dispatch modes, and ``torch.ops.mbe_plugin.deliveries`` says instead what its events
have caused; the counters get a rule for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mbe_plugin.conversion.following.frames import ModuleSites
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
# whose hardware has no place for our events
_OTHER_HARDWARE = {
    "SpikeSimCounter": "SpikeSim's crossbars add up binary inputs of convolutions, all of one amplitude; here each step, "
    "basis and exponent has its own",
    "_LemaireCounter": "Lemaire's formulas are of layers with IF and LIF neurons, and of nothing else",
    "NeuroMCEnergyProfiler": "NeuroMC maps convolutions, linear layers, batch norms and the host's own neurons to its "
    "cores, and nothing else",
}


def estimate_simple_energy(model: nn.Module, inputs: Any, *, config: Any = None) -> Any:
    """The host's function of this name, by our events: its SimpleEnergyReport of one forward of a converted network.

    MAC, AC, SynOps and weight reads are those of events_counted. inputs, config: as the host takes them. Raises the
    errors of record(deliveries=True).
    """
    host = importlib.import_module("spikingjelly.activation_based.op_counter")
    profiler = host.SimpleEnergyProfiler(config=config)
    profiler.bind_model(model)
    with events_counted(profiler), profiler, torch.no_grad():
        if isinstance(inputs, dict):
            model(**inputs)
        else:
            model(*(inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
    return profiler.get_report()


@contextmanager
def events_counted(*counters: Any) -> Iterator[None]:
    """Forwards of converted networks are counted by their events while this lasts.

    counters: the host's, or a SimpleEnergyProfiler for all that it holds. An ACCounter gets every event at every synapse,
    pair, sum and read-out; a SynOpCounter those at synapses and pairs; a NeuromorphicMemoryAccessCounter a weight's bytes
    for each event at the synapses of a layer; a MACCounter and others none. What lies between sites, and sites that stay
    exact, are counted as ever.

    Raises TypeError for a counter without rules, or of hardware that has no place for our events, and the errors of
    record(deliveries=True) in the forward.
    """
    held = [each for counter in counters for each in _held_by(counter)]
    for counter in held:
        _check(counter)
    ledger = _Spoken()
    before = [dict(counter.rules) for counter in held]
    for counter in held:
        counter.rules.update(_rules_for(counter, ledger))
    try:
        with told(ledger):
            yield
    finally:
        for counter, rules in zip(held, before, strict=True):
            counter.rules.clear()
            counter.rules.update(rules)


def _held_by(counter: Any) -> list[Any]:
    held = [getattr(counter, f"{kind}_counter", None) for kind in ("mac", "ac", "synop", "memory", "lemaire")]
    return [each for each in held if each is not None] or [counter]


def _check(counter: Any) -> None:
    name = type(counter).__name__
    if name in _OTHER_HARDWARE:
        raise TypeError(f"events cannot be counted for {name}: {_OTHER_HARDWARE[name]}")
    if not isinstance(getattr(counter, "rules", None), dict):
        raise TypeError(
            f"{name} has no rules to add to; pass counters of spikingjelly.activation_based.op_counter"
        )


def _rules_for(counter: Any, ledger: _Spoken) -> dict[Any, Callable[..., int]]:
    if type(counter).__name__ != "NeuromorphicMemoryAccessCounter":
        return {torch.ops.mbe_plugin.deliveries.default: _RULES.get(type(counter).__name__, _none)}
    return {key: _weights_by_events(counter, rule, ledger) for key, rule in counter.rules.items()}


def _weights_by_events(counter: Any, dense: Callable[..., int], ledger: _Spoken) -> Callable[..., int]:
    """The host's rule for a module, but for the weights that events read."""

    def count(module: nn.Module, inputs: tuple, kwargs: dict[str, Any], output: Any) -> int:
        total = dense(module, inputs, kwargs, output)
        sites = getattr(module, "_mbe_sites", None)
        events = ledger.at_layers.pop(sites.path, None) if isinstance(sites, ModuleSites) else None
        if events is None:
            return total
        metrics = counter._pending_metrics  # what the counter records when the rule is done
        assert isinstance(module.weight, Tensor)
        metrics["weight_read_bytes"] = int(events) * module.weight.element_size()
        return sum(metrics.values())

    return count


class _Spoken(Ledger):
    """Says each delivery by an operator that dispatch modes see, once per operator's call.

    at_layers: events that have met the weights of a module, by its path, since the host's hook looked.
    """

    stands_for = True

    def __init__(self) -> None:
        self.waiting: dict[SpikingOperator, list[tuple[Tensor, bool]]] = {}
        self.at_layers: dict[str, Tensor] = {}

    def delivered(self, operator: SpikingOperator, delivery: Delivery) -> None:
        """See Ledger."""
        events = (delivery.spikes + delivery.side).to(torch.int64)
        self.waiting.setdefault(operator, []).append((events, delivery.synapses > 0))
        if delivery.weighted and delivery.synapses:
            path = operator.site.rpartition(":")[0]
            before = self.at_layers.get(path)
            self.at_layers[path] = events if before is None else before + events

    def finished(self, operator: SpikingOperator) -> None:
        """See Ledger."""
        for events, synaptic in self.waiting.pop(operator, []):
            torch.ops.mbe_plugin.deliveries(events, synaptic)
