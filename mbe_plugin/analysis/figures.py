"""Pictures of a converted network, each by one call; matplotlib is needed here only.

Each draws the rows of the same name in ``rows`` and takes what that takes, and ``ax``: where to draw, a new figure by
default. It gives the Axes; ``axes.figure.savefig(path)`` keeps the picture. Raises what the rows raise, and ImportError
with the command that installs matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mbe_plugin.analysis import rows
from mbe_plugin.analysis.closeness import Outputs
from mbe_plugin.analysis.colours import ANN, OKABE_ITO, SIDE_EVENTS, SNN, SPIKES, place_of
from mbe_plugin.analysis.rows.places import Row, layer_ticks
from mbe_plugin.analysis.rows.sent import ELEMENTS
from mbe_plugin.config import MBEConfig
from mbe_plugin.conversion import Calibration
from mbe_plugin.fitting.plot import pyplot

MARKERS = "os^Dv<>P"
TICKS = 14  # names of layers along an axis
LEAST = 1e-8  # of what is drawn on a logarithmic axis

Line = Sequence[tuple[float, float, str]]


def firing_rate(snn: nn.Module, batch: Any = None, *, ax: Any = None) -> Any:
    """Every neuron's firing rate, in the order of the forward; a mark for each operator."""
    axes = _axes(ax)
    found = rows.firing_rate(snn, batch)
    _along_the_forward(axes, found, "firing_rate")
    most = max((row["firing_rate"] for row in found), default=1.0)
    axes.set(ylabel="firing rate", ylim=(0, 1.1 * most or 1.0), title="Firing rate per layer")
    return axes


def error(snn: nn.Module, ann: nn.Module | None = None, batch: Any = None, *, ax: Any = None) -> Any:
    """Every site's error, in the order of the forward; with ANN and batch what the site alone adds to the output.

    A site without an error of its own, such as a layer that reads trains as they are, has no mark.
    """
    axes = _axes(ax)
    name = "error" if ann is None else "output"
    found = [row for row in rows.error(snn, ann, batch) if row[name]]
    _along_the_forward(axes, found, name)
    what = "relative error of the site" if ann is None else "relative error of the output by the site alone"
    axes.set(ylabel=what, title="Error by site")
    if found:
        axes.set_yscale("log")
    return axes


def events(snn: nn.Module, batch: Any = None, *, ax: Any = None) -> Any:
    """Spikes and side events that each operator's neurons send."""
    axes, found = _axes(ax), rows.events(snn, batch)
    names = [row["operator"] for row in found]
    spikes = [row["spikes"] for row in found]
    axes.barh(names, spikes, color=SPIKES, label="spikes")
    axes.barh(
        names, [row["side_events"] for row in found], left=spikes, color=SIDE_EVENTS, label="side events"
    )
    axes.invert_yaxis()
    axes.set(xlabel="events sent", title="Events by operator")
    axes.legend(frameon=False, loc="lower right")
    return axes


def energy(
    snn: nn.Module, batch: Any, accounting: str = "complete", baseline: str = "float32", *, ax: Any = None
) -> Any:
    """What each operator costs the SNN and the ANN."""
    axes, found = _axes(ax), rows.energy(snn, batch, accounting, baseline)
    for offset, name, colour in ((-0.2, "snn", SNN), (0.2, "ann", ANN)):
        places = [place + offset for place in range(len(found))]
        axes.barh(places, [row[name] / 1e6 for row in found], 0.4, color=colour, label=name.upper())
    axes.set_yticks(range(len(found)), [row["operator"] for row in found])
    axes.invert_yaxis()
    snn_energy, ann_energy = (sum(row[name] for row in found) for name in ("snn", "ann"))
    share = f": {snn_energy / ann_energy:.1%} of the ANN's" if ann_energy else ""
    axes.set(
        xlabel="µJ", title=f"Energy by operator{share}\n(accounting {accounting!r}, baseline {baseline})"
    )
    axes.legend(frameon=False, loc="lower right")
    return axes


def raster(
    snn: nn.Module,
    batch: Any,
    site: str,
    role: str | None = None,
    elements: int = ELEMENTS,
    *,
    ax: Any = None,
) -> Any:
    """The spikes of one neuron in a batch: a line per element, a column per step, a colour per basis."""
    axes, found = _axes(ax), rows.raster(snn, batch, site, role, elements)
    axes.vlines(
        [row["step"] for row in found],
        [row["element"] - 0.4 for row in found],
        [row["element"] + 0.4 for row in found],
        colors=[OKABE_ITO[row["basis"] % len(OKABE_ITO)] for row in found],
        linewidth=3,
    )
    axes.set(xlabel="time step", ylabel="element", title=f"Spikes at {site}\n(colour: basis)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return axes


def frontier(
    model: nn.Module,
    calibration: Calibration | Iterable[Any],
    held_out: Sequence[Any],
    time_steps: Sequence[int] = (2, 4, 6, 8, 12, 16),
    config: MBEConfig | None = None,
    outputs: Outputs | None = None,
    *,
    ax: Any = None,
) -> Any:
    """Closeness against energy, a point for each T."""
    axes = _axes(ax)
    found = rows.frontier(model, calibration, held_out, time_steps, config, outputs)
    line = [(100 * row["energy"], 1 - row["cosine"], f"T = {row['time_steps']}") for row in found]
    trade_off(axes, {type(model).__name__: line})
    axes.set(
        xlabel="energy, percent of the float32 ANN's (accounting 'complete')",
        ylabel="1 - smallest cosine of an item's output",
        title="Closeness and energy over T",
    )
    return axes


def approximation(snn: nn.Module, site: str, role: str | None = None, *, ax: Any = None) -> Any:
    """What one neuron computes, beside the function that it stands for."""
    axes, found = _axes(ax), rows.approximation(snn, site, role)
    x = [row["x"] for row in found]
    axes.plot(x, [row["exact"] for row in found], color="0.6", linewidth=4, label="exact")
    axes.plot(x, [row["decoded"] for row in found], color=SNN, linewidth=1.2, label="decoded from spikes")
    axes.set(xlabel="input", ylabel="output", title=f"Approximation at {site}")
    axes.legend(frameon=False)
    return axes


def trade_off(axes: Any, lines: Mapping[str, Line], font: float = 7) -> None:
    """Lines of (x, y, note) on logarithmic axes, each with its colour and mark; the notes stand beside the points."""
    for place, (name, line) in enumerate(lines.items()):
        x, errors, notes = zip(*sorted(line), strict=True)
        y = [max(error, LEAST) for error in errors]
        axes.loglog(x, y, label=name, markersize=4, linewidth=1, **_style(place))
        for across, up, note in zip(x, y, notes, strict=True):
            axes.annotate(note, (across, up), (4, 4), textcoords="offset points", fontsize=font)


def _along_the_forward(axes: Any, found: Sequence[Row], name: str) -> None:
    """A point for each row; rows of a layer stand together, and its name under the first of them."""
    for operator, place in place_of([row["operator"] for row in found]).items():
        chosen = [(x, row[name]) for x, row in enumerate(found) if row["operator"] == operator]
        if chosen:
            style = _style(place)
            axes.plot(*zip(*chosen, strict=True), linestyle="", markersize=5, label=operator, **style)
    ticks = layer_ticks(found, TICKS)
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=35, ha="right", fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _style(place: int) -> dict[str, Any]:
    return {"color": OKABE_ITO[place % len(OKABE_ITO)], "marker": MARKERS[place % len(MARKERS)]}


def _axes(ax: Any) -> Any:
    return pyplot().subplots(figsize=(8, 4.2), layout="constrained")[1] if ax is None else ax
