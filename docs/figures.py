"""The pictures of docs/neuron.md.

    OMP_NUM_THREADS=1 python docs/figures.py

writes docs/figures/*.png.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mbe_plugin.fitting import fit
from mbe_plugin.fitting.plot import pyplot
from mbe_plugin.neuron.dynamics import bank_index, reference_decode, reference_spikes
from mbe_plugin.neuron.tables import Tables, segment_tables

FOLDER = Path(__file__).parent / "figures"


def main() -> None:
    """Draw every figure."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    one_basis()
    segments()
    offset()
    bent()


def one_basis() -> None:
    """A binary code: its spike trains over x, and what they decode to."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(8, 2.6))
    edges = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torch.linspace(-0.25, 1.25, 1501)
    tables = segment_tables(4, edges, edges[1:], edges[:1])
    spikes = reference_spikes(x, tables)[:, 0]
    left.imshow(spikes, aspect="auto", extent=(-0.25, 1.25, 3.5, -0.5), cmap="Greys", interpolation="none")
    left.set(xlabel="x", ylabel="step t", title="spikes of one basis, T = 4", yticks=range(4))
    for steps in (2, 4, 16):
        tables = segment_tables(steps, edges, edges[1:], edges[:1])
        right.plot(x, reference_decode(reference_spikes(x, tables), x, tables), lw=1, label=f"T = {steps}")
    right.set(xlabel="x", title="read-out: clip(x, 0, 2 alpha)")
    right.legend(fontsize=7)
    _save(figure, "one_basis.png")


def segments() -> None:
    """Three published bases, their sum, and its error: three lines."""
    found = fit("reciprocal", None, 16, 3, family="published", search=False)
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(8, 2.6))
    x = torch.linspace(0.5, 1, 2001)
    spikes = reference_spikes(x, found.tables)
    for n in range(3):
        part = found.tables.weight[n] * (spikes[:, n] * found.tables.intensity[:, n, None]).sum(0)
        left.plot(x, part - part[0], lw=1, label=f"basis {n + 1}, from its value at 0.5")
    left.set(xlabel="x", title="three bases, each with one knot at 2 alpha")
    left.legend(fontsize=7)
    y = reference_decode(spikes, x, found.tables)
    right.plot(x, y - 1 / x, lw=1, color="C3")
    right.set(xlabel="x", title="their sum minus 1/x: three lines")
    _save(figure, "segments.png")


def offset() -> None:
    """GELU on (-8, 8), four bases, T = 8: split by sign, with offset, routed."""
    figure, axes = pyplot().subplots(1, 3, figsize=(9, 2.6), sharey=True)
    x = torch.linspace(-5, 3, 4001)
    exact = torch.nn.functional.gelu(x)
    for panel, family in zip(axes, ("published", "parallel", "routed"), strict=True):
        found = fit("gelu", (-8.0, 8.0), 8, 4, family=family)
        panel.plot(x, found.node()(x) - exact, lw=0.8, color="C3")
        panel.set(xlabel="x", title=f"{family}: mse {found.mean_squared_error:.1e}")
    axes[0].set_ylabel("error of GELU, N = 4, T = 8")
    _save(figure, "offset.png")


def bent() -> None:
    """One segment of 1/x: the binary code and the searched one, T = 16."""
    figure, axes = pyplot().subplots(2, 2, figsize=(8, 4.4), sharex=True)
    for column, family in enumerate(("routed", "curved")):
        found = fit("reciprocal", None, 16, 8, family=family)
        knots = [0.5, *found.tables.breakpoints.tolist()]
        x = torch.linspace(knots[2], knots[3] - 1e-6, 3001)
        bank = int(bank_index(x[:1], found.tables.breakpoints, False))
        spikes = reference_spikes(x, found.tables)
        _segment(axes[0, column], axes[1, column], x, spikes, bank, found.tables, family)
    axes[0, 0].set_ylabel("step t")
    axes[1, 0].set_ylabel("error of 1/x")
    _save(figure, "bent.png")


def _segment(
    upper: Any, lower: Any, x: torch.Tensor, spikes: torch.Tensor, bank: int, tables: Tables, family: str
) -> None:
    decay = (tables.reset[1, bank] / tables.reset[0, bank]).item()
    count = spikes.sum().item() / x.numel()
    extent = (x[0].item(), x[-1].item(), tables.time_steps - 0.5, -0.5)
    upper.imshow(spikes[:, bank], aspect="auto", extent=extent, cmap="Greys", interpolation="none")
    upper.set(title=f"{family}: reset decays by {decay:.2f}, {count:.1f} spikes")
    lower.plot(x, reference_decode(spikes, x, tables) - 1 / x, lw=0.8, color="C3")
    lower.set(xlabel="x", ylim=(-2.5e-3, 2.5e-3))


def _save(figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(FOLDER / name, dpi=80, metadata={"Software": None})
    pyplot().close(figure)


if __name__ == "__main__":
    main()
