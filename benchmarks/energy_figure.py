"""The trade-off that benchmarks/energy.py measures, as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.energy_row import Row
from mbe_plugin.analysis.figures import trade_off

PUBLISHED = 17.29  # percent, of the MBE paper's ViT-M/16 at T = 16, by its own count


def frontier(rows: Sequence[Row], path: Path) -> None:
    """Error of the features against the energy, a line per network, complete accounting, float32 baseline."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for row in rows:
        lines[row.network].append((100 * row.complete_float32, 1 - row.minimum_cosine, row.setting))
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    trade_off(axes, lines, font=6)
    axes.axvline(100, color="0.6", linestyle="--", linewidth=0.8)
    axes.axvline(PUBLISHED, color="0.6", linestyle=":", linewidth=0.8)
    axes.set(
        xlabel="energy of the SNN, percent of the float32 ANN's (accounting 'complete')",
        ylabel="1 - smallest cosine of an item's features",
    )
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
