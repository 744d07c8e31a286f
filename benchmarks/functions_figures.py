"""The figures of benchmarks/functions.py: error against T, N and spikes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.functions_row import Row, is_of
from mbe_plugin.fitting.plot import pyplot


def figures(rows: list[Row], folder: Path) -> None:
    """Error against T, against N and against spikes."""
    _lines(
        folder / "functions_error_vs_steps.png",
        [r for r in rows if r.section in ("steps", "few-spikes") and is_of(r, "reciprocal", None)],
        lambda r: r.time_steps,
        "T, 1/x on [0.5, 1), N = 8",
    )
    _lines(
        folder / "functions_error_vs_bases.png",
        [r for r in rows if r.section == "bases" and r.time_steps == 16],
        lambda r: r.bases,
        "N, 1/x on [0.5, 1), T = 16",
    )
    _lines(
        folder / "functions_error_vs_spikes.png",
        [r for r in rows if r.section in ("steps", "few-spikes") and is_of(r, "gelu", (-8.0, 8.0))],
        lambda r: r.spikes_per_element,
        "spikes per element, GELU on (-8, 8), N = 8, T = 2 .. 16",
        log=True,
    )


def _lines(file: Path, rows: list[Row], place: Callable[[Row], float], label: str, log: bool = False) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(5, 3.4))
    for family in dict.fromkeys(r.family for r in rows):
        points = sorted((place(r), r.mean_squared_error) for r in rows if r.family == family)
        axes.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1, label=family)
    axes.set_yscale("log")
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("mean squared error")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)
