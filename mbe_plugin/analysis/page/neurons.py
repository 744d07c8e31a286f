"""Every neuron as a page shows it when it is clicked: facts, its approximation, its raster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mbe_plugin.analysis.page.seen import Seen
from mbe_plugin.analysis.report import NeuronReport
from mbe_plugin.analysis.rows.places import Row, neurons_at
from mbe_plugin.analysis.rows.sent import spikes_of
from mbe_plugin.analysis.rows.shape import curve_of, exact_function
from mbe_plugin.operators import CalibratedNode, SharedScaleNode

DIGITS = 6  # of numbers that are drawn


def key_of(node: CalibratedNode) -> str:
    """A neuron's name in the page: of the site whose it is, and its role there."""
    return f"{node.site}|{node.role}"


def keys_at(snn: nn.Module, site: str) -> list[str]:
    """The names of the neurons that a site reads."""
    return [key_of(node) for node in neurons_at(snn, site).values()]


def reported(found: Seen) -> Iterator[tuple[str, NeuronReport, CalibratedNode]]:
    """Each neuron once, at the site whose it is: its name, its report and itself."""
    for site in found.report.sites:
        nodes = neurons_at(found.snn, site.site)
        for described in site.neurons:
            node = nodes[described.role]
            if node.site == site.site:
                yield key_of(node), described, node


@dataclass
class Curves:
    """Approximations by number; one that neurons share, since their tables and ranges are equal, is kept once."""

    kept: list[dict[str, list[float]]] = field(default_factory=list)
    numbers: dict[tuple[float, ...], int] = field(default_factory=dict)

    def add(self, x: Tensor, exact: Tensor, decoded: Tensor) -> int:
        """The number of a curve."""
        columns = {"x": x, "exact": exact, "decoded": decoded, "error": decoded - exact}
        rounded = {name: _rounded(column.tolist()) for name, column in columns.items()}
        key = tuple(value for column in rounded.values() for value in column)
        if key not in self.numbers:
            self.numbers[key] = len(self.kept)
            self.kept.append(rounded)
        return self.numbers[key]


def neurons(found: Seen) -> tuple[dict[str, Row], list[dict[str, list[float]]]]:
    """All neurons by name, and the curves that they point to by number."""
    curves, by_name = Curves(), {}
    for key, described, node in reported(found):
        by_name[key] = {
            "site": described.site,
            "role": described.role,
            "function": described.function,
            "facts": dict(_facts(described)),
            "unit": _unit(node),
            "curve": curves.add(*curve_of(node, exact_function(found.snn, node))),
            "raster": _raster(found, node),
            "time_steps": described.time_steps,
        }
    return by_name, curves.kept


def _facts(n: NeuronReport) -> Iterator[tuple[str, str]]:
    yield "T", str(n.time_steps)
    yield "N (active)", f"{n.bases} ({n.bases_per_element})"
    yield "code", n.code.replace("_", " ")
    yield "scale", n.scale
    yield "range", f"{n.low:.4g} .. {n.high:.4g}"
    if n.dead_zone:
        yield "silent below", f"{n.dead_zone:.2g}"
    yield "fit error", f"{n.fit_error:.1e}"
    yield "spikes per element, first calibration batch", f"{n.spikes:.2f}"
    yield "seen since", f"{n.seen:,}"
    yield "outside its range", f"{n.outside:.1e}" if n.outside else "0"


def _unit(node: CalibratedNode) -> str:
    if not isinstance(node, SharedScaleNode):
        return "input"
    distance = "distance to the channel's center" if node.centered else "input"
    return distance if node.scale == "tensor" else f"{distance}, in units of the {node.scale}'s scale"


def _raster(found: Seen, node: CalibratedNode) -> dict[str, list[Any]] | None:
    """Spikes as columns; None where no train was taken."""
    train = found.trains.get((node.site, node.role))
    if train is None:
        return None
    spikes = spikes_of(train)
    inputs = _rounded(train.membrane.tolist())
    element, step, basis = (list(column) for column in zip(*spikes, strict=True)) if spikes else ([], [], [])
    return {"element": element, "step": step, "basis": basis, "inputs": inputs}


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
