"""A picture of one neuron of a converted network: what it approximates, its error, its spikes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mbe_plugin.fitting import FUNCTIONS
from mbe_plugin.operators import CalibratedNode

INPUTS = 41  # rows of the raster


def neuron_figure(snn: nn.Module, path: Path, function: str = "gelu") -> None:
    """Draw the first neuron of ``snn`` that computes ``function`` and save it at ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    node = first_node(snn, function)
    low, high = node.tables().breakpoints[[0, -1]].tolist()
    reach = 0.06 * (high - low)
    x = torch.linspace(low - reach, high + reach, 2001)
    exact, decoded = FUNCTIONS[function].scalar(x.double()), node(x)

    figure = plt.figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplot_mosaic([["curve", "raster"], ["error", "raster"]], height_ratios=[1.6, 1])
    _curve(panels["curve"], x, exact, decoded, node, function)
    _error(panels["error"], x, decoded.double() - exact, node)
    _values(panels["error"], recorded_values(snn, node), low - reach, high + reach)
    _raster(panels["raster"], node, torch.linspace(low - reach, high + reach, INPUTS))
    figure.suptitle(
        f"One neuron of {node.site}: T = {node.time_steps} steps, N = {node.bases} bases, "
        f"{node.bases_per_element} of them driven by an input",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def first_node(snn: nn.Module, function: str) -> CalibratedNode:
    """The first neuron of a converted network that computes ``function``."""
    for module in snn.modules():
        if isinstance(module, CalibratedNode) and module.function == function:
            return module
    raise ValueError(f"no neuron of this network computes {function!r}")


def recorded_values(snn: nn.Module, node: CalibratedNode) -> Tensor:
    """What calibration saw at this neuron."""
    site = next(site for site in snn.mbe_conversion.sites if site.name == node.site)
    return site.roles[node.role].sample()


def _curve(axes, x: Tensor, exact: Tensor, decoded: Tensor, node: CalibratedNode, function: str) -> None:
    _segments(axes, node)
    axes.plot(x, exact, color="0.55", linewidth=5, label=function, solid_capstyle="butt")
    axes.plot(x, decoded, color="C3", linewidth=1.3, label="decoded from spikes")
    axes.legend(loc="upper left", frameon=False)
    axes.set(ylabel="output", title="What it computes (dotted: borders of the bases)")
    axes.tick_params(labelbottom=False)


def _error(axes, x: Tensor, error: Tensor, node: CalibratedNode) -> None:
    _segments(axes, node)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.plot(x, error, color="C3", linewidth=0.9)
    axes.set(xlabel="input", ylabel="error", title=f"Decoded minus exact, at most {error.abs().max():.1e}")


def _values(axes, values: Tensor, low: float, high: float) -> None:
    """How often calibration met each input, behind the error: the fit spends its bases there."""
    shares = axes.twinx()
    shares.hist(values[(values > low) & (values < high)], bins=80, color="C0", alpha=0.25)
    shares.set(yticks=[], ylim=(0, None))
    axes.set_zorder(shares.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot([], [], color="C0", alpha=0.25, linewidth=6, label="values met in calibration")
    axes.legend(loc="upper left", frameon=False)


def _segments(axes, node: CalibratedNode) -> None:
    for place in node.tables().breakpoints.tolist():
        axes.axvline(place, color="0.8", linewidth=0.6, linestyle=":", zorder=0)
    axes.margins(x=0)


def _raster(axes, node: CalibratedNode, inputs: Tensor) -> None:
    """One row per input, one column per step; the colour is the basis that fires."""
    spikes = node.spikes(inputs)  # [T, N, inputs]
    step, basis, row = spikes.nonzero(as_tuple=True)
    height = (inputs[1] - inputs[0]).item()
    size = 0.42 * height
    axes.vlines(
        step, inputs[row] - size, inputs[row] + size, colors=[f"C{int(n) % 10}" for n in basis], linewidth=3
    )
    axes.set(
        xlim=(-0.7, node.time_steps - 0.3),
        xlabel="time step",
        ylabel="input",
        title=f"Its spikes for {len(inputs)} inputs (colour: basis)",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(y=0.02)
