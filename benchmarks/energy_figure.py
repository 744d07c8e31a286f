"""The trade-off that benchmarks/energy.py measures, as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.energy_row import Row
from mbe_plugin.analysis.colours import OKABE_ITO
from mbe_plugin.analysis.figures import MARKERS

PUBLISHED = 17.29  # percent, of the MBE paper's ViT-M/16 at T = 16, by its own count
FAMILIES = (
    "default",
    "every value encoded",
    "published",
    "first spike",
    "low energy",
    "tuned",
)  # how settings begin


def frontier(rows: Sequence[Row], path: Path) -> None:
    """Error of the features against the energy, a panel per network: all settings, and a line through the best of them.

    Complete accounting, float32 baseline. Beside a point stand its T and, where it is not the default's, its N.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row.network for row in rows))
    figure, panels = plt.subplots(2, 2, figsize=(10, 7.5), sharex=True, sharey=True, layout="constrained")
    for axes, network in zip(panels.flat, networks, strict=False):
        _panel(axes, [row for row in rows if row.network == network])
        axes.set_title(network, fontsize=10)
    figure.supxlabel("energy of the SNN, percent of the float32 ANN's (accounting 'complete')")
    figure.supylabel("1 - smallest cosine of an item's features")
    panels.flat[0].legend(fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axes: Any, rows: Sequence[Row]) -> None:
    """One network's settings."""
    best, least = [], float("inf")
    for row in sorted(rows, key=lambda row: row.complete_float32):
        if 1 - row.minimum_cosine < least:
            least = 1 - row.minimum_cosine
            best.append((100 * row.complete_float32, least))
    axes.loglog(*zip(*best, strict=True), color="0.75", linewidth=3, zorder=0)
    for family, marker, colour in zip(FAMILIES, MARKERS, OKABE_ITO, strict=False):  # there are more of both
        of_family = [row for row in rows if row.setting.startswith(family)]
        places = [(100 * row.complete_float32, 1 - row.minimum_cosine) for row in of_family]
        if places:
            axes.plot(*zip(*places, strict=True), marker, color=colour, markersize=6, label=family)
        for row, place in zip(of_family, places, strict=True):
            numbers = " ".join(re.findall(r"(?<= = )\d+", row.setting))
            axes.annotate(numbers, place, xytext=(5, 2), textcoords="offset points", fontsize=6)
    axes.axvline(100, color="0.6", linestyle="--", linewidth=0.8)
    axes.axvline(PUBLISHED, color="0.6", linestyle=":", linewidth=0.8)
