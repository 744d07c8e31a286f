"""Rows of what a conversion costs in closeness: error by site, one neuron's approximation, the frontier over T."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from mbe_plugin.analysis.closeness import Closeness, Outputs, first_floating
from mbe_plugin.analysis.energy import energy
from mbe_plugin.analysis.locate import locate_error
from mbe_plugin.analysis.report import Report, report
from mbe_plugin.analysis.rows.places import Row, operators_of, place
from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration, calibrate, convert


def error(snn: nn.Module, ann: nn.Module | None = None, batch: Any = None) -> list[Row]:
    """A row for each spiking site, in the order of the forward, with its errors, relative root mean squares.

    error: of the operator alone, on the first calibration batch. With the ANN and a batch ``output``, ``added`` and
    ``accumulated``, too, as mbe_plugin.locate_error measures them; None for a site that the batch does not reach.
    Raises ValueError for one of the two without the other, and what locate_error raises.
    """
    if (ann is None) != (batch is None):
        raise ValueError("error by site is located with both: pass ann= and batch=, or neither")
    rows = errors_in(report(snn), operators_of(snn))
    if ann is None:
        return rows
    located = {found.site: found for found in locate_error(snn, ann, batch)}
    names = ("output", "added", "accumulated")
    return [
        {**row, **{name: getattr(located.get(row["site"]), name, None) for name in names}} for row in rows
    ]


def errors_in(found: Report, operators: dict[str, str]) -> list[Row]:
    """The rows of error() without an ANN."""
    return [
        {**place(site.site, operators), "depth": depth, "error": site.error}
        for depth, site in enumerate(found.sites)
    ]


def frontier(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    held_out: Sequence[Any],
    time_steps: Sequence[int] = (2, 4, 6, 8, 12, 16),
    config: MBEConfig | None = None,
    outputs: Outputs | None = None,
) -> list[Row]:
    """A row for each T: how close the converted model is, and what it costs.

    cosine: the smallest between ANN and SNN of an item's output, on the held-out batches. energy: of the first of them, the
    complete accounting, as a share of the ANN's in float32. outputs: which numbers of what the network returns count; the
    first floating tensor by default. The model is calibrated once and converted for each T. Raises ValueError without a
    held-out batch, and what convert() and energy() raise.
    """
    if not held_out:
        raise ValueError("the frontier is measured on held-out batches; got none in held_out")
    given = calibration if isinstance(calibration, Calibration) else calibrate(model, calibration)
    close = Closeness(model, held_out, outputs or first_floating)
    rows = []
    for steps in time_steps:
        snn = convert(model, given, replace(config or MBEConfig(), time_steps=steps))
        rows.append({"time_steps": steps, "cosine": close(snn), **_costs(snn, held_out[0])})
    return rows


def _costs(snn: nn.Module, batch: Any) -> Row:
    spent, made = energy(snn, batch), report(snn)
    return {
        "energy": spent.share,
        "snn": spent.snn,
        "ann": spent.ann,
        "firing_rate": made.firing_rate,
        "spikes": made.spikes,
        "steps": spent.latency.steps,
    }
