"""Trials: the error that each choice at each place adds to the network's output, and what the choice costs.

To first order the output moves by J e, where e is what an encoding is off and J the derivative of the output after the
place. With signs v at random, E[(v . J e)^2] = |J e|^2 (Hutchinson's estimate), and v J is one backward pass for all
places. Errors of different rows, and of different places, are taken for independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbe_plugin.analysis.energy.neurons import of_neuron
from mbe_plugin.analysis.energy.operations import of_amplitudes
from mbe_plugin.neuron.scaling import compute_dtype
from mbe_plugin.operators import CalibratedNode, SharedScaleNode
from mbe_plugin.recording import Deliveries, NeuronEvents, Recording, sent_by
from mbe_plugin.recording.amplitudes import Amplitudes, amplitudes_of
from mbe_plugin.tuning.places import Place
from mbe_plugin.tuning.watching import Seen


@dataclass
class Trial:
    """error: squared, relative to the output's square, summed over the output's rows. spikes, events: per element."""

    error: float = 0.0
    spikes: float = 0.0
    events: float = 0.0


def trials(place: Place, calls: Sequence[Seen]) -> list[Trial]:
    """One for each choice, on what was seen; a dead zone only silences what its code would have sent."""
    found = [Trial() for _ in place.choices]
    looked_at = sum(call.x.numel() for call in calls)
    by_code: list[list[int]] = [[] for _ in place.codes]
    for choice, (code, _) in enumerate(place.choices):
        by_code[code].append(choice)
    for call in calls:
        for node, choices in zip(place.codes, by_code, strict=True):
            zones = torch.tensor([place.choices[c][1] for c in choices], dtype=torch.float64)
            errors, spikes, events = _tried(node, call, zones)
            for i, choice in enumerate(choices):
                found[choice].error += errors[i] * call.elements / call.x.numel()
                found[choice].spikes += spikes[i] / looked_at
                found[choice].events += events[i] / looked_at
    return found


def _tried(node: CalibratedNode, call: Seen, zones: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Error, spikes and events of a code with each dead zone [Z], of all rows together."""
    x = node.distance(call.x, -1) if isinstance(node, SharedScaleNode) else call.x
    sent = sent_by(node, call.x)
    silent = (x.abs() < zones.to(compute_dtype(x))[:, None, None]).float()  # [Z, rows, C]
    value = node.decoded(call.x, -1) - (call.x - x)
    gradients = torch.stack(call.pulled, -1).float()  # [rows, C, projections]
    off = ((value - x)[..., None] * gradients).sum(1)  # [rows, projections]
    lost = torch.einsum("zrc,rcp->zrp", silent, value[..., None] * gradients)
    errors = (off - lost).double().square().sum(1).mean(-1)
    spikes, events = (
        (c.sum(dtype=torch.float64) - torch.einsum("zrc,rc->z", silent, c))
        for c in (sent.spikes, sent.events)
    )
    return errors.tolist(), spikes.tolist(), events.tolist()


def prices(
    place: Place, tried: Sequence[Trial], recording: Recording, costs: Mapping[str, float]
) -> list[float]:
    """pJ of each choice in a recorded forward of the network, by the complete accounting of ``mbe_plugin.energy``."""
    elements = recording.neurons[place.site.name, place.role].elements
    met = _met(recording.deliveries or {}, place.site.name)
    found, amplitudes = [], [amplitudes_of(code) for code in place.codes]
    for (number, _), trial in zip(place.choices, tried, strict=True):
        operations = _at_neuron(place.codes[number], trial, elements)
        operations.update(_at_synapses(amplitudes[number], trial, *met))
        found.append(sum(costs[kind] * count for kind, count in operations.items()))
    return found


def _met(deliveries: Mapping[tuple[str, str], Deliveries], site: str) -> tuple[int, int]:
    """Synapses and outputs of a layer."""
    arrived = [d.arrived for (name, _), d in deliveries.items() if name == site]
    weights = [met.tolist() for by in arrived for (_, weighted), met in by.items() if weighted]
    return sum(met[1] for met in weights), sum(met[2] for met in weights)


def _at_neuron(node: CalibratedNode, trial: Trial, elements: int) -> Counter[str]:
    counts = torch.zeros(node.time_steps, node.bases, dtype=torch.int64)
    counts[0, 0] = round(trial.spikes * elements)
    return of_neuron(
        node, NeuronEvents(counts, node.bases_per_element, torch.tensor([elements, 0, elements]))
    )


def _at_synapses(amplitudes: Amplitudes, trial: Trial, synapses: int, outputs: int) -> dict[str, int]:
    arriving = round(trial.events * synapses)
    return {"accumulate": arriving, **of_amplitudes(amplitudes, True, arriving, synapses, outputs)}
