"""Counting the spikes of a converted network while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from mbe_plugin.operators.neuron import CalibratedNode, SpikeListener, spread


@dataclass
class NeuronSpikes:
    """Spikes of one neuron: counts [T, N] int64 per step and basis, over ``sampled`` of its ``elements`` inputs.

    exponents: how many power-of-two scales were sent beside the trains (with the sign and the segment's address).
    Where not every element was looked at, total and exponents are estimates.
    """

    counts: Tensor
    bases_per_element: int
    elements: int = 0
    exponents: int = 0
    sampled: int = 0

    @property
    def total(self) -> int:
        """All spikes."""
        found = int(self.counts.sum())
        return found if self.sampled == self.elements else round(found / self.sampled * self.elements)

    @property
    def per_element(self) -> float:
        """Spikes per input element."""
        return int(self.counts.sum()) / max(self.sampled, 1)

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
def count_spikes(snn: nn.Module, most: int | None = None) -> Iterator[SpikeCounts]:
    """Count every neuron's spikes per step and basis in the forwards inside the ``with`` block.

    An encoder that several layers share sends one train, which is counted once. Blocks may be nested. most: look at so
    many evenly spread elements of a call only, for estimates (NeuronSpikes says of how many); all of them by default.
    Forwards that other threads run meanwhile are counted too.
    """
    counts = SpikeCounts()
    outer = [(m, m.spike_listener) for m in snn.modules() if isinstance(m, CalibratedNode)]
    for node, listener in outer:
        node.spike_listener = _listener(counts, node, listener, most)
    try:
        yield counts
    finally:
        for node, listener in outer:
            node.spike_listener = listener


def _listener(
    counts: SpikeCounts, node: CalibratedNode, outer: SpikeListener | None, most: int | None
) -> SpikeListener:
    def listen(x: Tensor, where: Tensor | None, sent: int | None) -> None:
        if outer is not None:
            outer(x, where, sent)
        elements = x.numel() if where is None else int(torch.count_nonzero(where))
        # looking is no part of the forward: no audit or counter of operations sees it
        with _disable_current_modes():
            looked_at = spread(x.detach(), where, most)
            fired, exponents = node.spike_counts(looked_at)
        key = node.site, node.role
        if key not in counts.neurons:
            counts.neurons[key] = NeuronSpikes(torch.zeros_like(fired), node.bases_per_element)
        neuron = counts.neurons[key]
        neuron.counts += fired
        neuron.elements += elements
        neuron.sampled += looked_at.numel()
        if sent is None:
            sent = round(exponents * elements / max(looked_at.numel(), 1))
        neuron.exponents += sent

    return listen
