"""The trade-off that benchmarks/fidelity.py measures, as a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks.fidelity_row import Row
from mbe_plugin.analysis import figures


def trade_off(rows: list[Row], path: Path) -> None:
    """Error against spikes per token, a line per configuration, T at every point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    errors: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    cosines: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for row in rows:
        note = f"T={row.time_steps}" if row.configuration == rows[0].configuration else ""
        errors[row.configuration].append((row.spikes / 1000, row.max_error, note))
        cosines[row.configuration].append((row.spikes / 1000, 1 - row.minimum_cosine, note))
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharex=True)
    for panel, lines in zip(panels, (errors, cosines), strict=True):
        figures.trade_off(panel, lines, font=8)
    ticks = [t for t in (20, 30, 50, 70, 100, 150, 200, 300, 400) if _within(t, rows)]
    for panel, label in zip(
        panels, ("maximum error of the last hidden state", "1 - minimum cosine"), strict=True
    ):
        panel.set(xlabel="spikes per token, thousands", ylabel=label)
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _within(tick: float, rows: list[Row]) -> bool:
    spikes = [row.spikes / 1000 for row in rows]
    return min(spikes) * 0.8 <= tick <= max(spikes) * 1.2
