"""Trials: the error that each choice at each place adds to the network's output, and what the choice costs.

To first order the output moves by J e, where e is what an encoding is off and J the derivative of the output after the
place. With signs v at random, E[(v . J e)^2] = |J e|^2 (Hutchinson's estimate), and v J is one backward pass for all
places. Errors of different rows, and of different places, are taken for independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass
class Rows:
    """Rows of all calls [rows, C], the derivatives after them [rows, C, projections], and how many each stands for."""

    x: Tensor
    gradients: Tensor
    standing_for: Tensor

    @classmethod
    def of(cls, calls: Sequence[Seen]) -> Rows:
        """Of what was seen."""
        standing_for = [torch.full((len(c.x),), c.elements / c.x.numel(), dtype=torch.float64) for c in calls]
        return cls(
            torch.cat([call.x for call in calls]),
            torch.cat([torch.stack(call.pulled, -1).float() for call in calls]),
            torch.cat(standing_for).to(calls[0].x.device),
        )


def trials(place: Place, calls: Sequence[Seen]) -> list[Trial]:
    """One for each choice, on what was seen."""
    found = [Trial() for _ in place.menu]
    rows = Rows.of(calls)
    for choices in _alike(place.menu):
        nodes = [place.neuron(choice) for choice in choices]
        precise = min(nodes, key=lambda node: node.dead_zone)
        zones = torch.tensor([node.dead_zone for node in nodes], dtype=torch.float64)
        for choice, error, spikes, events in zip(choices, *_tried(precise, rows, zones), strict=True):
            found[choice] = Trial(error, spikes / rows.x.numel(), events / rows.x.numel())
    return found


def _alike(menu: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Choices that differ by their dead zones alone, which only silence what others send; a center depends on its zone."""
    groups: dict[tuple, list[int]] = {}
    for choice, settings in enumerate(menu):
        apart = () if settings.get("center", True) else ("dead_zone",)
        key = tuple(sorted((name, value) for name, value in settings.items() if name not in apart))
        groups.setdefault(key, []).append(choice)
    return list(groups.values())


def _tried(node: CalibratedNode, rows: Rows, zones: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Error, spikes and events of a neuron with each dead zone [Z], of all rows together; its own is the smallest."""
    x = node.distance(rows.x, -1) if isinstance(node, SharedScaleNode) else rows.x
    sent = sent_by(node, rows.x)
    silent = (x.abs() < zones.to(compute_dtype(x))[:, None, None]).float()  # [Z, rows, C]
    value = node.decoded(rows.x, -1) - (rows.x - x)
    off = ((value - x)[..., None] * rows.gradients).sum(1)  # [rows, projections]
    lost = torch.einsum("zrc,rcp->zrp", silent, value[..., None] * rows.gradients)
    errors = ((off - lost).double().square().mean(-1) * rows.standing_for).sum(1)
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
    found = []
    for choice, trial in enumerate(tried):
        node = place.neuron(choice)
        operations = _at_neuron(node, trial, elements)
        operations.update(_at_synapses(amplitudes_of(node), trial, *met))
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
