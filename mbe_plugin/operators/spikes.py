"""Counting the spikes of a converted network while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mbe_plugin.operators.neuron import CalibratedNode


@dataclass
class NeuronSpikes:
    """Spikes of one neuron: counts [T, N] int64 per step and basis, over ``elements`` inputs.

    exponents: how many power-of-two scales were sent beside the trains (with the sign and the segment's address).
    """

    counts: Tensor
    bases_per_element: int
    elements: int = 0
    exponents: int = 0

    @property
    def total(self) -> int:
        """All spikes."""
        return int(self.counts.sum())

    @property
    def per_element(self) -> float:
        """Spikes per input element."""
        return self.total / max(self.elements, 1)

    @property
    def firing_rate(self) -> float:
        """Share of the steps, of the bases that an element can drive, in which a spike is sent."""
        return self.per_element / (self.counts.shape[0] * self.bases_per_element)


@dataclass
class SpikeCounts:
    """Spikes by (site, role)."""

    neurons: dict[tuple[str, str], NeuronSpikes] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All spikes."""
        return sum(n.total for n in self.neurons.values())

    @property
    def exponents(self) -> int:
        """All exponents sent."""
        return sum(n.exponents for n in self.neurons.values())

    @property
    def firing_rate(self) -> float:
        """Mean over all element-steps of the bases that elements can drive."""
        slots = sum(n.elements * n.counts.shape[0] * n.bases_per_element for n in self.neurons.values())
        return self.total / max(slots, 1)


@contextmanager
def count_spikes(snn: nn.Module) -> Iterator[SpikeCounts]:
    """Count every neuron's spikes per step and basis in the forwards inside the ``with`` block.

    An encoder that several layers share sends one train, which is counted once. Blocks may be nested.
    """
    counts = SpikeCounts()
    outer = [(m, m.spike_listener) for m in snn.modules() if isinstance(m, CalibratedNode)]
    for node, listener in outer:
        node.spike_listener = _listener(counts, node, listener)
    try:
        yield counts
    finally:
        for node, listener in outer:
            node.spike_listener = listener


Listener = Callable[[Tensor, int, int], None]


def _listener(counts: SpikeCounts, node: CalibratedNode, outer: Listener | None) -> Listener:
    def listen(fired: Tensor, exponents: int, elements: int) -> None:
        if outer is not None:
            outer(fired, exponents, elements)
        key = node.site, node.role
        if key not in counts.neurons:
            counts.neurons[key] = NeuronSpikes(torch.zeros_like(fired), node.bases_per_element)
        neuron = counts.neurons[key]
        neuron.counts += fired
        neuron.elements += elements
        neuron.exponents += exponents

    return listen
