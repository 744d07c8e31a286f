"""The tables of a page: columns that say what they mean, and rows of plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mbe_plugin.analysis.energy import ACCOUNTINGS
from mbe_plugin.analysis.page.neurons import keys_at, reported
from mbe_plugin.analysis.page.seen import Seen
from mbe_plugin.analysis.rows.errors import errors_in
from mbe_plugin.analysis.rows.places import Row
from mbe_plugin.analysis.rows.sent import events_in
from mbe_plugin.analysis.rows.spent import energy_in


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _small(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _share(value: float) -> str:
    return f"{value:.2%}" if value else "0"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _micro(value: float) -> str:
    return f"{value / 1e6:,.4g}"


@dataclass(frozen=True)
class Column:
    """name: of the rows' value. shown: how a number is written; None for text."""

    name: str
    title: str
    meaning: str
    shown: Callable[[float], str] | None = None

    def text(self, row: Row) -> str:
        """What the cell says."""
        value = row[self.name]
        if value is None:
            return ""
        return self.shown(value) if self.shown else str(value)


@dataclass(frozen=True)
class Table:
    """Rows under columns; a row with ``neuron`` leads to that neuron from its first cell."""

    name: str
    columns: tuple[Column, ...]
    rows: list[Row]


SITE = Column("site", "site", "The call: the module's path, and what it calls.")
OPERATOR = Column("operator", "operator", "What the call computes.")


def errors(found: Seen) -> Table:
    """Error by site and depth."""
    exact = {site.site: site.exact_parts for site in found.report.sites}
    rows = [
        {**row, "exact": exact[row["site"]], "neuron": next(iter(keys_at(found.snn, row["site"])), None)}
        for row in errors_in(found.report, found.operators)
    ]
    columns = (
        SITE,
        OPERATOR,
        Column(
            "depth", "depth", "Its place in the order in which a forward first reaches the sites.", _count
        ),
        Column(
            "error",
            "error",
            "Root mean square of what the operator alone is off, relative to its exact output, on the first calibration "
            "batch; 0 where it reads trains as they are.",
            _small,
        ),
        Column("exact", "exact inside", "What of the operator is not done by spikes."),
    )
    return Table("errors", columns, rows)


def events(found: Seen) -> Table:
    """Events by operator."""
    rows = events_in(found.recording, found.operators) if found.recording else []
    columns = (
        OPERATOR,
        Column("neurons", "neurons", "How many send there.", _count),
        Column("spikes", "spikes", "Sent in the batch.", _count),
        Column("side_events", "side events", "Powers of two sent beside the trains.", _count),
        Column("events", "events", "Both.", _count),
        Column("delivered", "delivered", "Synaptic operations that events cause at its sites.", _count),
    )
    return Table("events", columns if found.energies else columns[:-1], rows)


def energies(found: Seen) -> Table:
    """Energy by operator and accounting."""
    rows: dict[str, Row] = {}
    for name, spent in found.energies.items():
        for row in [*energy_in(spent, found.operators), _total(spent.snn, spent.ann)]:
            share = row["snn"] / row["ann"] if row["ann"] else None
            cells = {f"{name} snn": row["snn"], f"{name} ann": row["ann"], f"{name} share": share}
            rows.setdefault(row["operator"], {"operator": row["operator"]}).update(cells)
    columns = tuple(_accounted())
    empty = dict.fromkeys(column.name for column in columns)
    return Table("energy", columns, [{**empty, **row} for row in rows.values()])


def _total(snn: float, ann: float) -> Row:
    return {"operator": "all", "snn": snn, "ann": ann}


def _accounted() -> Iterator[Column]:
    yield OPERATOR
    for name, meaning in ACCOUNTINGS.items():
        yield Column(f"{name} snn", f"{name}: SNN, µJ", f"Accounting '{name}': {meaning}.", _micro)
        yield Column(f"{name} ann", "ANN, µJ", "The ANN in float32.", _micro)
        yield Column(f"{name} share", "share", "The SNN's as a share of the ANN's.", _share)


def ranges(found: Seen) -> Table:
    """Ranges and values outside them, a row for each neuron."""
    rows: list[Row] = [
        {**{name: getattr(n, name) for name in _OF_NEURON}, "neuron": key} for key, n, _ in reported(found)
    ]
    return Table("ranges", (SITE, *_RANGES), rows)


_RANGES = (
    Column("role", "neuron", "Its role at the site."),
    Column("function", "function", "What it computes; 'identity' encodes a value."),
    Column("low", "from", "Lower end of the calibrated range.", _short),
    Column("high", "to", "Upper end.", _short),
    Column(
        "fit_error",
        "fit error",
        "Root mean square on the recorded values, or on the reduced interval.",
        _small,
    ),
    Column("spikes", "spikes", "Per element, on the first calibration batch.", _short),
    Column("seen", "seen", "Values met since the conversion, or the last reset_counts.", _count),
    Column("outside", "outside", "The share of them outside the range that lost accuracy by it.", _small),
    Column("beyond", "beyond", "The share outside the range that was decoded as accurately.", _small),
)
_OF_NEURON = ("site", *(column.name for column in _RANGES))


def kept(found: Seen) -> Table:
    """What stayed exact, and why."""
    report = found.report
    rows = [
        *({"what": site, "count": 1, "why": why} for site, why in report.kept_exact.items()),
        *_counted(report.unsupported, "NOT SPIKING: an operator on activations without a spiking form"),
        *(
            {"what": call, "count": 1, "why": "taken for a constant, met only once"}
            for call in report.unchecked
        ),
        *_counted(report.exact, "exact by design, outside operators"),
        *_counted(report.linear, "linear with fixed weights, outside operators"),
        *_counted(report.without_activation, "of what is no activation: weights, tables, masks, positions"),
    ]
    columns = (
        Column("what", "what", "A site, or a function of torch."),
        Column("count", "calls", "In the first calibration batch, or in how many modules.", _count),
        Column("why", "why", "Why it is exact."),
    )
    return Table("kept", columns, rows)


def _counted(counts: dict[str, int], why: str) -> Iterator[dict[str, Any]]:
    for name, count in sorted(counts.items()):
        yield {"what": name, "count": count, "why": why}
