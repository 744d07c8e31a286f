"""What a page shows: the report of a network and, with a batch, what one forward of it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mbe_plugin.analysis.energy import ACCOUNTINGS, Energy
from mbe_plugin.analysis.energy.measure import billed, counted
from mbe_plugin.analysis.report import Report, conversion_of, report
from mbe_plugin.analysis.rows.places import operators_of
from mbe_plugin.analysis.rows.sent import ELEMENTS, recorded
from mbe_plugin.errors import ConversionError
from mbe_plugin.recording import Recording, Samples, sampled_trains


@dataclass(frozen=True)
class Seen:
    """A converted network as a page shows it.

    recording: of the batch, or of the first calibration batch; None where neither was counted. energies: by accounting.
    uncounted: why the energy of the batch cannot be counted, if so.
    """

    snn: nn.Module
    report: Report
    operators: dict[str, str]
    recording: Recording | None
    of_batch: bool = False
    energies: dict[str, Energy] = field(default_factory=dict)
    trains: Samples = field(default_factory=dict)
    uncounted: str = ""


def seen(snn: nn.Module, made: Report, batch: Any = None) -> Seen:
    """Look at a network; with a batch by one forward, after which the report is made anew, so that it counts that too."""
    operators = operators_of(snn)
    if batch is None:
        return Seen(snn, made, operators, conversion_of(snn).spikes)
    with sampled_trains(snn, ELEMENTS) as trains:
        recording, energies, uncounted = _forward(snn, batch)
    return Seen(snn, report(snn), operators, recording, True, energies, trains, uncounted)


def _forward(snn: nn.Module, batch: Any) -> tuple[Recording, dict[str, Energy], str]:
    try:
        found = counted(snn, batch)
    except ConversionError as refused:
        # a site whose events cannot be followed: the page says which, and shows the rest
        return recorded(snn, batch), {}, str(refused)
    return found.recording, {name: billed(found, name) for name in ACCOUNTINGS}, ""
