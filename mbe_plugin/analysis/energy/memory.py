"""Memory traffic: what it costs to read weights, to keep state, and to move events and numbers to where they are used.

After Z. Yan, Z. Bai, K. Tang, W.-F. Wong, "Reconsidering the Energy Efficiency of Spiking Neural Networks",
arXiv:2409.08290: per synapse an SNN pays, for each event, for finding the way, for reading the weight and for the addition;
the integer network of the same architecture, precision and weights pays once for moving the number and reading the
weight, and for the product. Nothing is used twice, in either network. The paper itself could not be read: the form
was found from the figures that others quote of it, which it gives again (docs/energy.md, tests/test_memory_energy.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from mbe_plugin.analysis.energy.operations import By, Forward, add
from mbe_plugin.recording import Deliveries, NeuronEvents, Recording, SiteCall

# kind -> what it is; their energies are Memory's
TRAFFIC = {
    "stored bit": "of a number read from, or written to, a memory beside the arithmetic",
    "moved bit": "of a number, moved by one hop in a stream whose order says what it is",
    "routed event": "one that finds its way by one hop, with its address",
}


@dataclass(frozen=True)
class Memory:
    """What traffic costs, for both networks: the parameters of the accounting 'memory', each of which can be replaced.

    stored: pJ per bit read from or written to a memory; 64 bits from an SRAM of 8 KiB cost 10 pJ in 45 nm (M. Horowitz,
    ISSCC 2014). value: pJ per bit and hop of a number in a dense stream. event: pJ per event and hop, its address
    included. Both are the 'typical neuromorphic' ones of arXiv:2409.08290, as quoted by others: 0.25, of a switched
    network in 22 nm, and 3.0, of Loihi's events. hops: between what sends and what receives, in the mean over synapses;
    below 1 where receivers share a way. side_bits: what a side event carries: an exponent of 8 bits, a sign, a segment.
    state_bits: of a membrane.

    Raises ValueError for values below 0.
    """

    stored: float = 10 / 64
    value: float = 0.25
    event: float = 3.0
    hops: float = 1.0
    side_bits: int = 12
    state_bits: int = 32

    def __post_init__(self) -> None:
        wrong = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if not 0 <= getattr(self, f.name) < float("inf")
        }
        if wrong:
            raise ValueError(f"Memory takes numbers of 0 or more, got {wrong}")

    @property
    def costs(self) -> dict[str, float]:
        """pJ by kind of traffic."""
        return {
            "stored bit": self.stored,
            "moved bit": self.value * self.hops,
            "routed event": self.event * self.hops,
        }

    def of_deliveries(self, spikes: int, side: int, weight_bits: int) -> dict[str, int]:
        """Each event finds its way, and reads a stored number there; a side event carries what it says."""
        return {
            "stored bit": (spikes + side) * weight_bits,
            "moved bit": side * self.side_bits,
            "routed event": spikes + side,
        }

    def of_products(self, products: int, weight_bits: int, value_bits: int) -> dict[str, int]:
        """Each product reads a stored number, and is sent another."""
        return {"stored bit": products * weight_bits, "moved bit": products * value_bits}

    def of_membranes(self, elements: int, time_steps: int) -> dict[str, int]:
        """Read and written once in each step."""
        return {"stored bit": 2 * elements * time_steps * self.state_bits}

    def of_elements(self, elements: int, value_bits: int) -> dict[str, int]:
        """The numbers that a function goes through: read and written once."""
        return {"stored bit": 2 * elements * value_bits}


def break_even(
    memory: Memory, weight_bits: int, value_bits: int, accumulate: float, multiply_accumulate: float
) -> float:
    """Spikes per product at which synapses cost as much as products; accumulate, multiply_accumulate: in pJ.

    Of a rate code of T steps, T times the rate. What neurons do beside sending is not counted.
    """

    def priced(moved: Mapping[str, int]) -> float:
        return sum(n * memory.costs[kind] for kind, n in moved.items())

    product = multiply_accumulate + priced(memory.of_products(1, weight_bits, value_bits))
    return product / (accumulate + priced(memory.of_deliveries(1, 0, weight_bits)))


def traffic(
    memory: Memory, forward: Forward, recording: Recording, weight_bits: int, value_bits: int
) -> tuple[By, By]:
    """Of the SNN and of the ANN; weights have the same bits in both."""
    dense = _dense(memory, forward.calls, weight_bits, value_bits)
    kept = _dense(memory, (call for call in forward.calls if not call.spiking), weight_bits, value_bits)
    return kept + _spiking(memory, recording.deliveries or {}, recording.neurons, weight_bits), dense


def _dense(memory: Memory, calls: Iterable[SiteCall], weight_bits: int, value_bits: int) -> By:
    found: By = Counter()
    for call in calls:
        add(found, call.site, memory.of_products(call.products, weight_bits, value_bits))
        add(found, call.site, memory.of_elements(call.elements, value_bits))
    return found


def _spiking(
    memory: Memory,
    deliveries: Mapping[tuple[str, str], Deliveries],
    neurons: Mapping[tuple[str, str], NeuronEvents],
    weight_bits: int,
) -> By:
    found: By = Counter()
    for (site, function), delivered in deliveries.items():
        if (
            function == "read-out"
        ):  # where the neuron is; what an event is worth there is among its table reads
            continue
        add(found, site, memory.of_deliveries(delivered.spikes, delivered.side, weight_bits))
    for (site, _), neuron in neurons.items():
        add(found, site, memory.of_membranes(neuron.elements, neuron.time_steps))
    return found
