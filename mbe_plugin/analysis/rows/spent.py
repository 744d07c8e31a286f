"""Rows of what a forward costs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn

from mbe_plugin.analysis.energy import Energy, Spent
from mbe_plugin.analysis.energy import energy as measured
from mbe_plugin.analysis.rows.places import Row, operators_of, place


def energy(snn: nn.Module, batch: Any, accounting: str = "complete", baseline: str = "float32") -> list[Row]:
    """A row for each operator: operations and picojoules of the SNN and of the ANN; the most expensive first.

    accounting, baseline: see mbe_plugin.energy, which says what is raised, too.
    """
    return energy_in(measured(snn, batch, accounting, baseline=baseline), operators_of(snn))


def energy_in(found: Energy, operators: dict[str, str]) -> list[Row]:
    """The rows of energy()."""
    parts: dict[str, list[Spent]] = defaultdict(list)
    for site, spent in found.by_site().items():
        parts[place(site, operators)["operator"]].append(spent)
    rows = [
        {
            "operator": operator,
            "accounting": found.accounting,
            "baseline": found.baseline,
            "snn": sum(part.snn for part in spent),
            "ann": sum(part.ann for part in spent),
            "snn_operations": sum(part.snn_operations for part in spent),
            "ann_operations": sum(part.ann_operations for part in spent),
        }
        for operator, spent in parts.items()
    ]
    return sorted(rows, key=lambda row: -row["snn"] - row["ann"])
