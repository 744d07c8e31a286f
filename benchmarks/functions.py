"""Single neurons: published errors, ours in every family, targets, spikes and fit times.

    OMP_NUM_THREADS=1 python -m benchmarks.functions

writes results/functions.md, functions.csv and figures beside this file, in about two minutes on one core.
"""

from __future__ import annotations

import csv
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks import functions_report as report
from benchmarks._common import machine
from benchmarks.few_spikes import fit_few_spikes, spikes_per_element
from benchmarks.functions_figures import figures
from benchmarks.functions_row import Row
from mbe_plugin.fitting import FUNCTIONS, Fit, fit
from mbe_plugin.fitting.grids import focused_grid
from mbe_plugin.fitting.segments import line_bound

RESULTS = Path(__file__).parent / "results"
GELU_PUBLISHED = (-120.0, 10.0)
STEPS = (16, 8, 6, 4, 2)
OURS = ("routed", "curved", "parallel")


def main() -> None:
    """Measure everything, write the tables and the figures, print the tables."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    first = _timed("first", "silu", None, 16, 8, "routed", search=False)  # the first call in this process
    rows = [first, *_published(), *_silu(), *_steps(), *_bases(), *_few_spikes()]
    bounds = {
        (name, domain): _line_bound(name, domain, bases) for name, domain, bases in report.TARGET_FUNCTIONS
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "functions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(_short(asdict(row)) for row in rows)
    text = report.markdown(rows, bounds, machine("torch", "numpy"), time.perf_counter() - began)
    (RESULTS / "functions.md").write_text(text, encoding="utf-8")
    figures(rows, RESULTS)
    print(text)


def _timed(
    section: str,
    name: str,
    domain: tuple[float, float] | None,
    time_steps: int,
    bases: int,
    family: str,
    search: bool = True,
) -> Row:
    start = time.process_time()  # one thread: the same as the clock's on an idle machine
    found = fit(name, domain, time_steps, bases, family=family, search=search)
    return _row(section, found, 1e3 * (time.process_time() - start), "" if search else ", closed form")


def _row(section: str, found: Fit, milliseconds: float, note: str = "") -> Row:
    low, high = found.target.measured or found.domain
    return Row(
        section,
        found.function,
        low,
        high,
        found.time_steps,
        found.bases,
        found.family + note,
        found.mean_squared_error,
        found.max_error,
        found.relative_error,
        found.spikes_per_element,
        found.bases_per_element,
        found.distinct_outputs,
        milliseconds,
    )


def _published() -> list[Row]:
    """The published table: every N at T = 16, the strict variant and both of ours beside it."""
    rows = []
    for name in report.PUBLISHED:
        domain = GELU_PUBLISHED if name == "gelu" else None
        for bases in report.PUBLISHED_BASES:
            for family in ("published", "published-strict", "routed", "curved"):
                rows.append(_timed("published", name, domain, 16, bases, family))
        rows.append(_timed("published", name, domain, 16, 8, "published-constant"))
    return rows


def _silu() -> list[Row]:
    return [
        _timed("silu", "silu", domain, 16, bases, family)
        for domain in report.SILU
        for bases in (4, 8)
        for family in ("published", "curved")
    ]


def _steps() -> list[Row]:
    """Every family at every T, N = 8 and the paper's GELU domain with N = 4."""
    rows = []
    for name, domain, bases in report.TARGET_FUNCTIONS:
        for time_steps in STEPS:
            for family in (*OURS, "published"):
                if name == "identity" and family != "routed":
                    continue
                if name == "rsqrt_octave" and family == "published":  # parity is not in the paper
                    continue
                rows.append(_timed("steps", name, domain, time_steps, bases, family))
            if name != "identity":
                rows.append(_timed("steps", name, domain, time_steps, bases, "routed", search=False))
    return rows


def _bases() -> list[Row]:
    """Error against N for the figure, T = 16 and T = 6."""
    return [
        _timed("bases", "reciprocal", None, time_steps, bases, family)
        for time_steps in (16, 6)
        for bases in (1, 2, 4, 8, 16)
        for family in ("routed", "curved", "published")
    ]


def _few_spikes() -> list[Row]:
    """The host's neuron at the same T."""
    rows = []
    for name, domain, _ in report.TARGET_FUNCTIONS:
        if name in ("identity", "rsqrt_octave"):
            continue
        target = FUNCTIONS[name]
        low, high = domain or target.interval
        x = low + (high - low) * (np.arange(1024) + 0.5) / 1024
        dense = (low + (high - low) * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000).float()
        node = None
        for time_steps in reversed(STEPS):
            start = time.process_time()
            node = fit_few_spikes(x, target.scalar(torch.from_numpy(x)).numpy(), time_steps, node)
            took = 1e3 * (time.process_time() - start)
            with torch.no_grad():
                exact = target.scalar(dense.double())
                error = node(dense).double() - exact
                spikes = spikes_per_element(node, dense)
            rows.append(
                Row("few-spikes", name, low, high, time_steps, 1, "FewSpikeNode",
                    error.square().mean().item(), error.abs().max().item(),
                    (error / exact).abs().max().item(), spikes, 1, 2**time_steps, took)
            )  # fmt: skip
    return rows


def _line_bound(name: str, domain: tuple[float, float] | None, bases: int) -> float:
    """Mean squared error of the best function of N lines (float64, no spikes)."""
    target = FUNCTIONS[name]
    low, high = domain or target.interval
    grid = focused_grid(lambda x: target.scalar(torch.from_numpy(x)).numpy(), low, high, points=8192)
    bound = line_bound(grid, bases)
    # an octave table serves [1, 2) too, which is twice as long at half the squared error
    return bound * (2 / 3) if target.measured else bound


def _short(row: dict) -> dict:
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    main()
