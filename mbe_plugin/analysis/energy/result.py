"""Energy: what two networks cost, with the accounting and the baseline that the figures hold for."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from mbe_plugin.analysis.energy.accountings import ACCOUNTINGS
from mbe_plugin.analysis.energy.costs import KINDS
from mbe_plugin.analysis.energy.memory import TRAFFIC
from mbe_plugin.analysis.energy.operations import By
from mbe_plugin.recording import Latency


@dataclass(frozen=True)
class Spent:
    """Operations and energy in pJ, of the SNN and of the ANN."""

    snn_operations: int
    ann_operations: int
    snn: float
    ann: float


@dataclass(frozen=True)
class Energy:
    """What one batch costs a converted network and its ANN; energies in picojoules.

    accounting: which operations are billed. baseline: the ANN's precision. snn_operations, ann_operations: by (site, kind);
    a site, or the path of a module for what lies between sites. snn_costs, ann_costs: pJ per operation, by kind.
    source: of the costs. uncounted: functions on activations of which no count of operations is known, with their calls.
    latency: how long the forward takes, whatever the accounting.
    """

    accounting: str
    baseline: str
    snn_operations: By
    ann_operations: By
    snn_costs: dict[str, float]
    ann_costs: dict[str, float]
    source: str
    uncounted: dict[str, int]
    latency: Latency

    @property
    def snn(self) -> float:
        """The SNN's energy in pJ."""
        return _priced(self.snn_operations, self.snn_costs)

    @property
    def ann(self) -> float:
        """The ANN's energy in pJ."""
        return _priced(self.ann_operations, self.ann_costs)

    @property
    def share(self) -> float:
        """snn / ann."""
        return self.snn / self.ann if self.ann else float("nan")

    def by_site(self) -> dict[str, Spent]:
        """By site, the most expensive first."""
        return self._by(0)

    def by_kind(self) -> dict[str, Spent]:
        """By kind of operation, the most expensive first."""
        return self._by(1)

    def _by(self, place: int) -> dict[str, Spent]:
        keys = dict.fromkeys(key[place] for key in (*self.snn_operations, *self.ann_operations))
        found = {name: self._spent(place, name) for name in keys}
        return dict(sorted(found.items(), key=lambda item: -item[1].snn - item[1].ann))

    def _spent(self, place: int, name: str) -> Spent:
        snn, ann = (
            Counter({key: n for key, n in operations.items() if key[place] == name})
            for operations in (self.snn_operations, self.ann_operations)
        )
        return Spent(snn.total(), ann.total(), _priced(snn, self.snn_costs), _priced(ann, self.ann_costs))

    def summary(self) -> str:
        """The share and the two energies, with all that they hold for."""
        lines = [
            f"energy: {self.share:.2%} of the ANN's (accounting {self.accounting!r}, baseline {self.baseline}): SNN "
            f"{_readable(self.snn)} pJ, ANN {_readable(self.ann)} pJ",
            f"{self.accounting}: {ACCOUNTINGS[self.accounting]}",
            f"costs: {self.source}",
            f"latency: {self.latency.summary()}",
        ]
        if self.uncounted:
            listed = ", ".join(f"{name} ({n}x)" for name, n in sorted(self.uncounted.items()))
            lines.append(f"NOT COUNTED in either network, no count of operations is known: {listed}")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The table by kind and the summary as text."""
        rows = [_HEADER, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        table = [
            "  ".join(
                cell.rjust(w) if i else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([*table, "", self.summary()])

    def to_markdown(self) -> str:
        """The same as Markdown."""
        rows = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1)), *self._rows()]
        table = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([*table, "", *(f"- {line}" for line in self.summary().splitlines())])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "accounting": self.accounting,
            "baseline": self.baseline,
            "source": self.source,
            "unit": "pJ",
            "share": self.share,
            "snn": self.snn,
            "ann": self.ann,
            "costs": {"snn": self.snn_costs, "ann": self.ann_costs},
            "by_kind": {name: vars(spent) for name, spent in self.by_kind().items()},
            "by_site": {name: vars(spent) for name, spent in self.by_site().items()},
            "uncounted": self.uncounted,
            "latency": asdict(self.latency),
        }

    def _rows(self) -> list[tuple[str, ...]]:
        by_kind = self.by_kind()
        rows = [
            (
                kind,
                f"{by_kind[kind].ann_operations:,}",
                _readable(by_kind[kind].ann),
                f"{by_kind[kind].snn_operations:,}",
                _readable(by_kind[kind].snn),
            )
            for kind in (*KINDS, *TRAFFIC)
            if kind in by_kind
        ]
        return [*rows, ("all", "", _readable(self.ann), "", _readable(self.snn))]


_HEADER = ("operation", "ANN", "ANN, pJ", "SNN", "SNN, pJ")


def _readable(energy: float) -> str:
    return f"{energy:,.2f}" if energy < 1000 else f"{energy:,.0f}"


def _priced(operations: By, costs: dict[str, float]) -> float:
    return sum(n * costs[kind] for (_, kind), n in operations.items())
