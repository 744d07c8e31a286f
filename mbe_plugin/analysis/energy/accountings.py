"""Accountings: which of the operations of a forward are billed."""

from __future__ import annotations

from collections import Counter

from torch import nn

from mbe_plugin.analysis.energy.operations import By, Forward, of_deliveries, of_neurons
from mbe_plugin.recording import Recording

# what each says of itself wherever a number is printed
ACCOUNTINGS = {
    "complete": (
        "everything that the simulated network does: spikes and side events at every synapse, pairs as pairs, "
        "amplitudes, comparisons, resets, read-outs, table reads and what stays exact; memory traffic is not counted"
    ),
    "memory": (
        "complete, and what it takes to read weights, to keep membranes and to move events and numbers, by our own model "
        "after arXiv:2409.08290, which could not be read: every event is routed to each synapse and reads a weight there, "
        "every product of the ANN is sent a number and reads a weight; nothing is used twice, in either network"
    ),
    "published": (
        "our reading of the MBE paper, which could not be verified: 0.9 pJ per synaptic operation, T x rate x elements "
        "for a neuron whatever its number of bases, T^2 x rate x rate for each product of two activations, T x rate "
        "for each product with weights; side events, comparisons, resets and functions are free"
    ),
}


def complete(snn: nn.Module, forward: Forward, recording: Recording) -> tuple[By, By]:
    """Operations of the SNN and of the ANN."""
    events = of_deliveries(recording.deliveries or {})
    spiking = events + of_neurons(snn, recording) + forward.exact + forward.beside + forward.between
    return spiking, forward.ann + forward.between


def published(snn: nn.Module, forward: Forward, recording: Recording) -> tuple[By, By]:
    """The same by the paper's count: products alone, by spikes alone; rates are each call's own."""
    spiking: By = Counter()
    dense: By = Counter()
    for (site, _), sent in recording.neurons.items():
        spiking[site, "accumulate"] += round(sent.total / sent.bases_per_element)
    for (site, _), delivered in (recording.deliveries or {}).items():
        if delivered.products:
            spiking[site, "accumulate"] += round(delivered.spikes_per_basis)
            dense[site, "multiply-accumulate"] += delivered.products
    for site, products in forward.products_kept.items():
        spiking[site, "multiply-accumulate"] += products
        dense[site, "multiply-accumulate"] += products
    return spiking, dense
