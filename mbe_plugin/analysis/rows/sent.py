"""Rows of what the neurons send: firing rates, events, rasters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mbe_plugin.analysis.report import conversion_of
from mbe_plugin.analysis.rows.places import Row, neuron_at, operators_of, place
from mbe_plugin.conversion.batches import as_call
from mbe_plugin.errors import ConversionError
from mbe_plugin.recording import Recording, Train, record, sampled_trains

ELEMENTS = 24  # of a raster


def firing_rate(snn: nn.Module, batch: Any = None) -> list[Row]:
    """A row for each neuron, in the order of the forward: what it sent, and its firing rate.

    batch: in any of the forms that convert() takes; the first calibration batch, whose counts are kept, by default. Raises
    ConversionError for a network that was not converted, or whose counts were not kept.
    """
    return rates_in(recorded(snn, batch), operators_of(snn))


def events(snn: nn.Module, batch: Any = None) -> list[Row]:
    """A row for each operator: spikes and side events that its neurons send, and with a batch the deliveries at its sites.

    delivered: synaptic operations that events cause there; None without a batch. Raises what firing_rate raises.
    """
    return events_in(recorded(snn, batch, deliveries=True), operators_of(snn))


def raster(
    snn: nn.Module, batch: Any, site: str, role: str | None = None, elements: int = ELEMENTS
) -> list[Row]:
    """A row for each spike of one neuron's first call in a batch, of so many evenly spread elements.

    role: of the neuron at its site, the first by default. element: from 0. input: what the neuron's tables got. step: 1 to
    T. basis: from 0. Raises ValueError for a site or role that is not there, or that the batch did not reach.
    """
    node = neuron_at(snn, site, role)
    with torch.no_grad(), sampled_trains(snn, elements, site) as trains:
        args, kwargs = as_call(batch, snn)
        snn(*args, **kwargs)
    train = trains.get((node.site, node.role))
    if train is None:
        raise ValueError(f"this batch does not reach {site}; take one that runs through it")
    inputs = train.membrane.tolist()
    return [
        {"element": n, "input": inputs[n], "step": step, "basis": basis}
        for n, step, basis in spikes_of(train)
    ]


def spikes_of(train: Train) -> list[tuple[int, int, int]]:
    """(element, step from 1, basis) of every spike of a flat train."""
    step, basis, element = train.spikes().nonzero(as_tuple=True)
    return sorted(zip(element.tolist(), (step + 1).tolist(), basis.tolist(), strict=True))


def rates_in(recording: Recording, operators: dict[str, str]) -> list[Row]:
    """The rows of firing_rate()."""
    return [
        {
            **place(site, operators),
            "role": role,
            "time_steps": neuron.time_steps,
            "bases": neuron.bases,
            "elements": neuron.elements,
            "spikes": neuron.total,
            "side_events": neuron.exponents,
            "spikes_per_element": neuron.per_element,
            "firing_rate": neuron.firing_rate,
        }
        for (site, role), neuron in recording.neurons.items()
    ]


def events_in(recording: Recording, operators: dict[str, str]) -> list[Row]:
    """The rows of events(), most events first."""
    delivered = recording.deliveries
    found: dict[str, Row] = {}
    for (site, _), neuron in recording.neurons.items():
        row = _row_of(found, place(site, operators)["operator"], known=delivered is not None)
        row["neurons"] += 1
        row["spikes"] += neuron.total
        row["side_events"] += neuron.exponents
        row["events"] += neuron.events
    for (site, _), arrived in (delivered or {}).items():
        _row_of(found, place(site, operators)["operator"], known=True)["delivered"] += arrived.total
    return _most_first(found.values(), "events", "delivered")


def _row_of(found: dict[str, Row], operator: str, known: bool) -> Row:
    zeros = dict.fromkeys(("neurons", "spikes", "side_events", "events"), 0)
    return found.setdefault(operator, {"operator": operator, **zeros, "delivered": 0 if known else None})


def _most_first(rows: Iterable[Row], *names: str) -> list[Row]:
    return sorted(rows, key=lambda row: [-(row[name] or 0) for name in names])


def recorded(snn: nn.Module, batch: Any, deliveries: bool = False) -> Recording:
    """What one forward sends; without a batch what the first calibration batch did."""
    if batch is None:
        return first_batch_of(snn)
    args, kwargs = as_call(batch, snn)
    with torch.no_grad(), record(snn, deliveries=deliveries) as recording:
        snn(*args, **kwargs)
    return recording


def first_batch_of(snn: nn.Module) -> Recording:
    """What convert() counted on the first calibration batch; ConversionError where that was not kept."""
    recording = conversion_of(snn).spikes
    if recording is None:
        raise ConversionError("no counts of a calibration batch were kept in this network; pass batch=")
    return recording
