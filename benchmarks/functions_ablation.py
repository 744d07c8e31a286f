"""What each extension of the single neuron buys, one row per option.

    OMP_NUM_THREADS=1 python -m benchmarks.functions_ablation

writes results/functions_ablation.md beside this file, in about twenty seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks._common import machine
from mbe_plugin.fitting import FUNCTIONS, Fit, fit
from mbe_plugin.fitting.grids import Grid, focused_grid
from mbe_plugin.fitting.routed import routed_tables
from mbe_plugin.fitting.segments import optimal_segments
from mbe_plugin.neuron.tables import Tables, segment_tables
from mbe_plugin.node import MBENode

STEPS = (16, 8, 4)
Make = Callable[[str, tuple[float, float], int], Fit]


def main() -> None:
    """Measure, write and print the tables."""
    torch.set_num_threads(1)
    text = "\n".join(
        [
            "# What each extension buys, single neuron\n",
            f"Made by `OMP_NUM_THREADS=1 python -m benchmarks.functions_ablation` on {machine('torch', 'numpy')}.\n",
            "N = 8. Cells: mean squared error / maximum error / spikes per element, over the whole domain.\n",
            _functions("gelu", (-8.0, 8.0)),
            _functions("reciprocal", (0.5, 1.0)),
            _octave(),
            _identity(),
        ]
    )
    (Path(__file__).parent / "results" / "functions_ablation.md").write_text(text, encoding="utf-8")
    print(text)


def _family(family: str, search: bool = True) -> Make:
    return lambda name, domain, steps: fit(name, domain, steps, 8, family=family, search=search)


def _untailed(name: str, domain: tuple[float, float], steps: int) -> Fit:
    """Routed with ramps that fill their segments, none searched, all coded from the left."""
    target = FUNCTIONS[name]
    grid = _grid(name, domain)
    tables = routed_tables(grid, optimal_segments(grid, 8, steps, tails=False), steps)
    return Fit(target, domain, tables)


def _tailed(name: str, domain: tuple[float, float], steps: int) -> Fit:
    grid = _grid(name, domain)
    return Fit(FUNCTIONS[name], domain, routed_tables(grid, optimal_segments(grid, 8, steps), steps))


def _grid(name: str, domain: tuple[float, float]) -> Grid:
    scalar = FUNCTIONS[name].scalar
    return focused_grid(lambda x: scalar(torch.from_numpy(x)).numpy(), *domain)


OPTIONS: tuple[tuple[str, Make], ...] = (
    ("strict: one alpha, no split", _family("published-strict")),
    ("published: alpha per basis, split by sign; closed form", _family("published", search=False)),
    ("the same, searched", _family("published")),
    ("offset: u[0] = x - c, no split (parallel)", _family("parallel")),
    ("routing by segment, one basis per element", _untailed),
    ("and flat tails that send nothing", _tailed),
    ("and searched edges, the sparer end coded (routed)", _family("routed")),
    ("and free decays (curved)", _family("curved")),
)


def _functions(name: str, domain: tuple[float, float]) -> str:
    lines = [f"## {name} on ({domain[0]:g}, {domain[1]:g})\n"]
    lines.append("| | " + " | ".join(f"T = {steps}" for steps in STEPS) + " |")
    lines.append("|---" * (len(STEPS) + 1) + "|")
    for label, make in OPTIONS:
        cells = (_cell(make(name, domain, steps)) for steps in STEPS)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _octave() -> str:
    lines = ["## rsqrt on (0.5, 2), routed: routing by exponent\n"]
    lines.append("| | " + " | ".join(f"T = {steps}" for steps in STEPS) + " |")
    lines.append("|---" * (len(STEPS) + 1) + "|")
    for label, name in (
        ("even exponents, table on [0.5, 2)", "rsqrt"),
        ("any exponent, table on [0.5, 1), factor 2^-1/2 for odd ones", "rsqrt_octave"),
    ):
        cells = (_cell(fit(name, None, steps, 8)) for steps in STEPS)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: Fit) -> str:
    return f"{found.mean_squared_error:.2g} / {found.max_error:.2g} / {found.spikes_per_element:.1f}"


def _identity() -> str:
    """Rounding and scale of the identity on values with a heavy tail: median relative errors."""
    generator = torch.Generator().manual_seed(0)
    gauss = torch.randn(2, 100_000, generator=generator)
    x = 0.3 * gauss[0] / gauss[1].abs().clamp_min(1e-3)  # median 0.3, largest about 1000 times that
    reach = 2.0 ** np.ceil(np.log2(x.abs().max().item()))
    lines = [
        "## identity, N = 2, on heavy-tailed values: median relative error\n",
        f"Median |x| {x.abs().median():.2f}, largest {x.abs().max():.0f}.\n",
        "| | " + " | ".join(f"T = {steps}" for steps in STEPS) + " |",
        "|---" * (len(STEPS) + 1) + "|",
    ]
    for label, make in (
        ("scale per tensor, rounded down", lambda steps: _plain_identity(reach, steps, 0.0)),
        ("scale per tensor, mid-step read-out", lambda steps: _plain_identity(reach, steps, 0.5)),
        ("scale per element, rounded down", lambda steps: MBENode(_floored(steps), "identity")),
        ("scale per element, mid-step read-out", lambda steps: fit("identity", None, steps, 2).node()),
    ):
        errors = (((make(steps)(x) - x) / x).abs().median().item() for steps in STEPS)
        lines.append(f"| {label} | " + " | ".join(f"{e:.2g}" for e in errors) + " |")
    return "\n".join(lines) + "\n"


def _plain_identity(reach: float, steps: int, rounding: float) -> MBENode:
    edges = torch.tensor([0.0, reach], dtype=torch.float64)
    middle = torch.tensor([reach * rounding * 2.0**-steps], dtype=torch.float64)
    return MBENode(segment_tables(steps, edges, edges[1:], middle, mirrored=True))


def _floored(steps: int) -> Tables:
    edges = torch.tensor([0.5, 1.0], dtype=torch.float64)
    return segment_tables(steps, edges, edges[:1], edges[:1], mirrored=True)


if __name__ == "__main__":
    main()
