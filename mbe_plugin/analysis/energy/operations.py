"""What one forward of a converted network did, and what the ANN would have done: raw counts, before any accounting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import get_ident

from torch import nn

from mbe_plugin.analysis.energy.functions import ADD, left_over, on_numbers
from mbe_plugin.analysis.energy.neurons import of_neuron
from mbe_plugin.operators import CalibratedNode
from mbe_plugin.recording import Amplitudes, Deliveries, Ledger, Recording, SiteCall

By = Counter[tuple[str, str]]  # (site, kind) -> operations


class Forward(Ledger):
    """A ledger of one network: exact functions beside its events, and each site's function as the ANN computes it."""

    everything = True

    def __init__(self) -> None:
        self.ann: By = Counter()  # at sites
        self.exact: By = Counter()  # at sites that stay exact, and biases
        self.between: By = Counter()  # outside sites, in both networks
        self.beside: By = Counter()  # inside operators, beside neurons and events
        self.unknown: Counter[str] = Counter()
        self.products_kept: Counter[str] = Counter()  # of sites that stay exact
        self.calls: list[SiteCall] = []
        self._sites: set[str] = set()
        self._thread = get_ident()  # others may run other networks

    def called(self, call: SiteCall) -> None:
        """See Ledger."""
        if get_ident() != self._thread:
            return
        operations = on_numbers(call)
        self.calls.append(call)
        self._sites.add(call.site)
        add(self.ann, call.site, operations)
        if not call.spiking:
            add(self.exact, call.site, operations)
            self.products_kept[call.site] += call.products
        elif call.products:
            add(self.exact, call.site, {ADD: call.offset})

    def computed(self, place: str, function: str, taken: int, given: int) -> None:
        """See Ledger."""
        if get_ident() != self._thread:
            return
        operations = left_over(function, taken, given)
        if operations is None:
            self.unknown[f"{function} in {place}"] += 1
        else:
            add(self.beside if place in self._sites else self.between, place, operations)


def add(to: By, site: str, operations: Mapping[str, int]) -> None:
    """Add a site's operations by kind."""
    for kind, count in operations.items():
        to[site, kind] += count


def of_neurons(snn: nn.Module, recording: Recording) -> By:
    """What all neurons do beside sending, at the sites that they belong to."""
    nodes = {(m.site, m.role): m for m in snn.modules() if isinstance(m, CalibratedNode)}
    found: By = Counter()
    for key, sent in recording.neurons.items():
        add(found, key[0], of_neuron(nodes[key], sent))
    return found


def of_deliveries(deliveries: Mapping[tuple[str, str], Deliveries]) -> By:
    """What events cause: an accumulation each, at their own neuron a read-out, and what their amplitudes ask for."""
    found: By = Counter()
    for (site, function), delivered in deliveries.items():
        found[site, "read-out" if function == "read-out" else "accumulate"] += delivered.total
        for (amplitudes, weighted), met in delivered.arrived.items():
            events, synapses, outputs = met.tolist()
            add(found, site, of_amplitudes(amplitudes, weighted, events, synapses, outputs))
    return +found


def of_amplitudes(
    amplitudes: Amplitudes, weighted: bool, events: int, synapses: int, outputs: int
) -> dict[str, int]:
    """What brings each event's number to its amplitude, the cheaper way; docs/energy.md says why.

    Shifts: one per event, or where the step is all of the exponent, one per step for each sum. Where a weight meets several
    amplitudes: its events of each are summed apart, and the sums put together; or a product per event.
    """
    found = {"shift": events}
    if not weighted:
        if amplitudes.levels:
            kind = "small multiplication" if amplitudes.small else "multiplication"
            found[kind] = min(events, synapses * amplitudes.per_element)
        return found
    sums = 1
    if amplitudes.levels:
        kind, apart = ("addition", 2) if amplitudes.spaced else ("multiply-accumulate", 1)
        if apart * amplitudes.levels * outputs < events:
            found[kind], sums = apart * amplitudes.levels * outputs, amplitudes.levels + 1
        else:
            found["multiplication"] = events
    if amplitudes.steps:
        found["shift"] = min(events, amplitudes.steps * sums * outputs)
    return found
