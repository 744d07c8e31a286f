"""The trade-off that benchmarks/energy.py measures, as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.energy_row import Row

PUBLISHED = 17.29  # percent, of the MBE paper's ViT-M/16 at T = 16, by its own count


def frontier(rows: Sequence[Row], path: Path) -> None:
    """Error of the features against the energy, a line per network, complete accounting, float32 baseline."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        lines[row.network].append(row)
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for place, (network, line) in enumerate(lines.items()):
        line.sort(key=lambda row: row.complete_float32)
        x = [100 * row.complete_float32 for row in line]
        y = [max(1 - row.minimum_cosine, 1e-8) for row in line]
        axes.loglog(x, y, label=network, color=f"C{place}", marker="os^D"[place % 4], linewidth=0.8)
        for row, across, up in zip(line, x, y, strict=True):
            axes.annotate(row.setting, (across, up), (4, 4), textcoords="offset points", fontsize=6)
    axes.axvline(100, color="0.6", linestyle="--", linewidth=0.8)
    axes.axvline(PUBLISHED, color="0.6", linestyle=":", linewidth=0.8)
    axes.set(
        xlabel="energy of the SNN, percent of the float32 ANN's (accounting 'complete')",
        ylabel="1 - smallest cosine of an item's features",
    )
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
