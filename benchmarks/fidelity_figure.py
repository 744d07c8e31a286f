"""The trade-off that benchmarks/fidelity.py measures, as a picture."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from benchmarks.fidelity_row import Row


def trade_off(rows: list[Row], path: Path) -> None:
    """Error against spikes per token, a line per configuration, T at every point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        lines[row.configuration].append(row)
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharex=True)
    for place, (name, line) in enumerate(lines.items()):
        style = {
            "color": f"C{place % 10}",
            "marker": "os^vD"[place // 10 % 5],
            "markersize": 4,
            "linewidth": 1,
        }
        spikes = [row.spikes / 1000 for row in line]
        cosine_errors = [max(1 - row.minimum_cosine, 1e-8) for row in line]
        panels[0].loglog(spikes, [row.max_error for row in line], label=name, **style)
        panels[1].loglog(spikes, cosine_errors, **style)
        for row, x, y in zip(line, spikes, cosine_errors, strict=True):
            if place == 0:
                panels[0].annotate(
                    f"T={row.time_steps}", (x, row.max_error), (4, 4), textcoords="offset points", fontsize=8
                )
                panels[1].annotate(
                    f"T={row.time_steps}", (x, y), (4, 4), textcoords="offset points", fontsize=8
                )
    ticks = [t for t in (20, 30, 50, 70, 100, 150, 200, 300, 400) if _within(t, rows)]
    for panel, label in zip(
        panels, ("maximum error of the last hidden state", "1 - minimum cosine"), strict=True
    ):
        panel.set(xlabel="spikes per token, thousands", ylabel=label)
        panel.set_xticks(ticks, [str(t) for t in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _within(tick: float, rows: list[Row]) -> bool:
    spikes = [row.spikes / 1000 for row in rows]
    return min(spikes) * 0.8 <= tick <= max(spikes) * 1.2
