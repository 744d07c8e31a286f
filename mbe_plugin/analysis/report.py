"""report(): every operator of a converted network, what it became, and what stayed exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from mbe_plugin.conversion import Conversion
from mbe_plugin.conversion.audit import BLIND_SPOTS
from mbe_plugin.conversion.following.routed import CONTAINER
from mbe_plugin.errors import ConversionError
from mbe_plugin.operators import CalibratedNode, SharedScaleNode, SpikingOperator
from mbe_plugin.recording import Latency


@dataclass(frozen=True)
class NeuronReport:
    """One neuron of a site. fit_error: root mean square on the recorded values, or on the reduced interval.

    site is whose neuron it is: another's, where both read the same tensor and share one train. code is what its trains
    spell: 'binary' digits, the time of a 'first_spike' or, with other tables, weights that are 'free'. Inputs smaller than
    dead_zone send nothing; if centered, low, high and dead_zone are of the distance to each channel's center.
    spikes and exponents are per element, on the first calibration batch. Of the values seen since the conversion (or the
    last reset_counts), outside is the share outside [low, high] that lost accuracy by it, NaN and infinities among them;
    beyond, the share outside [low, high] that the range reduction decoded as accurately.
    """

    site: str
    role: str
    function: str
    time_steps: int
    bases: int
    bases_per_element: int
    code: str
    scale: str
    low: float
    high: float
    dead_zone: float
    centered: bool
    fit_error: float
    spikes: float
    exponents: float
    seen: int
    outside: float
    beyond: float


@dataclass(frozen=True)
class SiteReport:
    """One call site. error: relative, of the operator alone on exact inputs' successors in the first batch."""

    site: str
    operator: str
    error: float
    exact_parts: str
    neurons: tuple[NeuronReport, ...]


@dataclass(frozen=True)
class Report:
    """What became spiking and what did not; print it, or take as_dict() or to_markdown().

    without_activation: in how many modules a nonlinear function met values that are no activations, and stayed exact.
    spikes, exponents: of the first calibration batch; estimated from 65,536 elements of each call where there were more.
    unchecked: products with weights whose other operand was taken for a constant although it was seen only once.
    latency: of the first calibration batch; None for a network that was saved before this was measured.
    """

    sites: tuple[SiteReport, ...]
    kept_exact: dict[str, str]
    linear: dict[str, int]
    exact: dict[str, int]
    without_activation: dict[str, int]
    unchecked: tuple[str, ...]
    unsupported: dict[str, int]
    blind_spots: tuple[str, ...]
    time_steps: int
    firing_rate: float
    spikes: int
    exponents: int
    estimated: bool = False
    latency: Latency | None = None

    # no field: a report compares, copies and goes to JSON as plain data; its page is drawn from the network
    _network: ClassVar[nn.Module | None] = None

    def summary(self) -> str:
        """A few lines."""
        neurons = [n for s in self.sites for n in s.neurons if n.site == s.site]
        kinds = Counter(s.operator for s in self.sites)
        seen = sum(n.seen for n in neurons)
        outside, beyond = (sum(getattr(n, c) * n.seen for n in neurons) for c in ("outside", "beyond"))
        lines = [
            f"spiking: {len(self.sites)} sites ({', '.join(f'{n} {k}' for k, n in kinds.most_common())}), "
            f"{len(neurons)} neurons, T = {self.time_steps}",
            f"first calibration batch: {'about ' if self.estimated else ''}{self.spikes:,} spikes, "
            f"mean firing rate {self.firing_rate:.1%}, "
            f"{self.exponents:,} exponents sent",
            f"latency: {self.latency.summary() if self.latency else 'not measured when this network was made'}",
            f"encoded activations, {_sent([n for n in neurons if n.function == 'identity'])}",
            f"outside the calibrated ranges since then: {outside:,.0f} of {seen:,} values; "
            f"beyond the recorded range, as accurate there: {beyond:,.0f}",
            f"kept exact: {_reasons(self.kept_exact)}",
            f"exact by design, outside operators: {_listed(self.exact)}",
            f"linear with fixed weights, outside operators: {_listed(self.linear)}",
            f"exact, of what is no activation (weights, tables, masks, positions, prepared inputs): "
            f"{_listed(self.without_activation)}",
        ]
        if self.unchecked:
            lines.append(
                f"TAKEN FOR CONSTANTS, met only once in a shape: {', '.join(self.unchecked)}; calibrate with two "
                "batches of one shape to make sure"
            )
        if self.unsupported:
            lines.append(f"NOT SPIKING, unsupported: {_listed(self.unsupported)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The table and the summary as text."""
        rows = [_HEADER, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        table = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        seen = ["", "no instrument sees:", *(f"- {spot}" for spot in self.blind_spots)]
        return "\n".join([*table, "", self.summary(), *seen])

    def to_markdown(self) -> str:
        """The same as Markdown."""
        rows = [_HEADER, tuple("---" for _ in _HEADER), *self._rows()]
        table = ["| " + " | ".join(row) + " |" for row in rows]
        notes = [f"- {line}" for line in self.summary().splitlines()]
        seen = ["", "No instrument sees:", "", *(f"- {spot}" for spot in self.blind_spots)]
        return "\n".join([*table, "", *notes, *seen])

    def save_html(self, path: str | Path, batch: Any = None) -> None:
        """Write the report as one page that loads nothing, for any browser: tree, errors, events, energy, ranges, neurons.

        batch: in any of the forms that convert() takes; it runs once, and the page shows its energy, rasters, deliveries
        and the ranges after it. Without a batch the page says how to get them. Raises ConversionError for a report that was
        copied or loaded, which has no network, and ImportError with the command that installs Bokeh, which draws the page.
        """
        from mbe_plugin.analysis.page import save_page  # reads reports itself

        if self._network is None:
            raise ConversionError(
                "this report was copied or loaded without its network, which the page is drawn from; call "
                "mbe_plugin.report(snn).save_html(path)"
            )
        save_page(self._network, self, path, batch)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_network"}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    def _rows(self) -> Iterable[tuple[str, ...]]:
        for site in self.sites:
            for n in site.neurons or (None,):
                first = n is None or n is site.neurons[0]
                yield (
                    site.site if first else "",
                    site.operator if first else "",
                    f"{site.error:.1e}" if first else "",
                    *(_neuron_cells(n) if n is not None else ("the operands' own trains", *[""] * 9)),
                )


_HEADER = (
    "site",
    "operator",
    "error",
    "neuron",
    "T",
    "N (active)",
    "code",
    "scale",
    "range",
    "fit error",
    "spikes",
    "outside",
    "beyond",
)


def _neuron_cells(n: NeuronReport) -> tuple[str, ...]:
    return (
        f"{n.role}: {n.function}",
        str(n.time_steps),
        f"{n.bases} ({n.bases_per_element})",
        n.code.replace("_", " "),
        n.scale,
        f"{n.low:.4g} .. {n.high:.4g}{f', silent below {n.dead_zone:.2g}' if n.dead_zone else ''}",
        f"{n.fit_error:.1e}",
        f"{n.spikes:.2f}",
        *(f"{share:.1e}" if share else "0" for share in (n.outside, n.beyond)),
    )


_TRAINS = {
    "binary": "binary digits",
    "first_spike": "at most one spike, its time the exponent and its basis the mantissa",
    "free": "spikes of fitted weights",
}
_BESIDE = {"element": "an exponent beside each element", "token": "an exponent beside each token"}


def _sent(neurons: list[NeuronReport]) -> str:
    """What the identities send, and how many of them."""
    kinds = Counter(
        f"{_TRAINS[n.code]}, {_BESIDE.get(n.scale, 'nothing beside')}{', none in a dead zone' if n.dead_zone else ''}"
        f"{', of the distance to the channel center' if n.centered else ''}"
        for n in neurons
    )
    return "; ".join(f"{count} neurons: {kind}" for kind, count in kinds.most_common()) or "none"


def report(snn: nn.Module) -> Report:
    """The Report of a converted network; ConversionError for any other module."""
    conversion = conversion_of(snn)
    operators: nn.ModuleDict = getattr(snn, CONTAINER)
    spikes = conversion.spikes
    described: list[SiteReport] = []
    for site in conversion.sites:
        key = site.key
        if key in operators:
            described.append(_site_report(site.name, operators[key], conversion))
    made = Report(
        sites=tuple(described),
        kept_exact=dict(conversion.kept_exact),
        linear=_by_operator(conversion.findings.linear),
        exact=_by_operator(conversion.findings.exact),
        without_activation=dict(Counter(function for _, function in conversion.unmarked)),
        unchecked=tuple(conversion.unchecked),
        unsupported={f"{op} in {path}": n for (path, op), n in conversion.findings.unsupported.items()},
        blind_spots=BLIND_SPOTS,
        time_steps=conversion.config.time_steps,
        firing_rate=spikes.firing_rate if spikes else float("nan"),
        spikes=spikes.total if spikes else 0,
        exponents=spikes.exponents if spikes else 0,
        estimated=spikes.estimated if spikes else False,
        latency=conversion.latency,
    )
    object.__setattr__(made, "_network", snn)  # frozen for everybody else
    return made


def conversion_of(snn: nn.Module) -> Conversion:
    """What convert() left in the network; ConversionError if it was not converted."""
    conversion = getattr(snn, "mbe_conversion", None)
    if not isinstance(conversion, Conversion):
        raise ConversionError(
            f"this {type(snn).__name__} is no converted network; pass what mbe_plugin.convert returned"
        )
    return conversion


def _site_report(name: str, operator: nn.Module, conversion: Conversion) -> SiteReport:
    assert isinstance(operator, SpikingOperator)
    neurons = tuple(_neuron_report(role, node, conversion) for role, node in operator.neurons())
    error = conversion.local_errors.get(name, float("nan"))
    return SiteReport(name, type(operator).__name__, error, operator.exact_parts, neurons)


def _neuron_report(role: str, node: CalibratedNode, conversion: Conversion) -> NeuronReport:
    low, high = node.calibrated.tolist()
    counted = conversion.spikes.neurons.get((node.site, node.role)) if conversion.spikes else None
    seen = int(node.seen)
    return NeuronReport(
        site=node.site,
        role=role,
        function=node.function,
        time_steps=node.time_steps,
        bases=node.bases,
        bases_per_element=node.bases_per_element,
        code=node.code,
        scale=node.scale,
        low=low,
        high=high,
        dead_zone=node.dead_zone,
        centered=isinstance(node, SharedScaleNode) and node.centered,
        fit_error=node.fit_error,
        spikes=counted.per_element if counted else 0.0,
        exponents=counted.exponents / max(counted.elements, 1) if counted else 0.0,
        seen=seen,
        outside=int(node.outside) / max(seen, 1),
        beyond=int(node.beyond) / max(seen, 1),
    )


def _by_operator(found: Counter[tuple[str, str]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (_, operator), count in found.items():
        totals[operator] += count
    return dict(totals)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"


def _reasons(kept: dict[str, str]) -> str:
    counts = Counter(kept.values())
    return ", ".join(f"{count} sites {reason}" for reason, count in counts.items()) or "nothing"
