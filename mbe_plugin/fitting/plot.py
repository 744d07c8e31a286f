"""Pictures of fits; matplotlib is needed here only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mbe_plugin.fitting.result import Fit


def pyplot() -> Any:
    """matplotlib.pyplot, or ImportError with the command that installs it."""
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib; install it with: pip install matplotlib") from error
    return plt


def plot_fit(fit: Fit, axes: Any = None) -> Any:
    """The function and the neuron above, the error below; see Fit.plot."""
    if axes is None:
        _, axes = pyplot().subplots(2, 1, sharex=True, figsize=(6, 5), height_ratios=(2, 1))
    upper, lower = axes
    x = fit.dense_grid(4000)
    reduced = fit.function == "identity" or fit.target.measured is not None
    node = fit.node()
    if not reduced:
        node.reduction = type(node.reduction)("none", "none")
    with torch.no_grad():
        y, exact = node(x).double(), fit.target.scalar(x.double())
    upper.plot(x, exact, color="0.6", lw=3, label=fit.function)
    upper.plot(x, y, color="C0", lw=1, label=f"{fit.family}, N={fit.bases}, T={fit.time_steps}")
    for knot in fit.tables.breakpoints.tolist():
        upper.axvline(knot, color="0.85", lw=0.8, zorder=0)
    upper.legend()
    lower.plot(x, y - exact, color="C3", lw=0.8)
    lower.set_xlabel("x")
    lower.set_ylabel("error")
    return upper.figure
