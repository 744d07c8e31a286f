"""Many candidate bases at once, in NumPy: what the searches simulate before they make Tables.

A shape is one basis as five numbers, a row of a float64 array [K, 5]: offset, width, and the decays per
step of threshold, reset and intensity. Its membrane starts at (x - offset) / width and all three tables lead
with 1/2, so with decays of 1/2 the basis is the T-step binary code of [offset, offset + width).
In the paper's terms (arXiv:2508.07710, eq. 4) alpha = |width| / 2 and decay = exp(-dt / tau).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbe_plugin.neuron.tables import Tables, halving_table, published_tables

Array = NDArray[np.float64]

OFFSET, WIDTH, THRESHOLD, RESET, INTENSITY = range(5)
DECAY_DIGITS = 6  # decimals that a searched decay keeps, so that it is stored shortly and exactly


def halving_shapes(offset: Array, width: Array) -> Array:
    """Shapes [K, 5] of binary codes with these offsets and widths [K]."""
    half = np.full((len(offset), 3), 0.5)
    return np.concatenate([np.stack([offset, width], axis=1), half], axis=1)


def simulate(x: Array, shapes: Array, time_steps: int) -> Array:
    """Decoded output sum_t s[t] d[t] of each shape [K, 5] for inputs x [M]; [K, M], the float32 dynamics."""
    p = shapes.astype(np.float32)
    gain = (1 / shapes[:, WIDTH]).astype(np.float32)
    membrane = gain[:, None] * (x.astype(np.float32)[None] - p[:, OFFSET, None])
    if np.all(p[:, THRESHOLD:] == 0.5):
        codes = np.float32(2.0**time_steps)
        return (np.clip(np.floor(membrane * codes), 0, codes - 1) / codes).astype(np.float64)
    tables = 0.5 * powers(shapes[:, THRESHOLD:], time_steps)
    threshold, reset, intensity = tables.astype(np.float32).transpose(1, 2, 0)[..., None]
    output = np.zeros_like(membrane)
    spike, change = np.empty_like(membrane), np.empty_like(membrane)
    for t in range(time_steps):
        np.greater_equal(membrane, threshold[t], out=spike)
        membrane -= np.multiply(spike, reset[t], out=change)
        output += np.multiply(spike, intensity[t], out=change)
    return output.astype(np.float64)


def read_out(columns: Array, y: Array, weight: Array) -> tuple[Array, float, float]:
    """Weights [N], constant and squared error of the weighted least-squares fit of y by columns [N, M].

    By Gram-Schmidt in a fixed order without BLAS, so the bits do not depend on the number of threads; a
    column that adds nothing to the ones before it gets weight 0.
    """
    root = np.sqrt(weight)
    rows = np.concatenate([np.ones((1, len(y))), columns]) * root
    basis = orthonormal(rows)
    target = y * root
    inner = np.einsum("nm,m->n", basis, target)
    upper = np.einsum("im,jm->ij", basis, rows)
    solution = np.zeros(len(rows))
    for i in range(len(rows) - 1, -1, -1):
        if upper[i, i] > 0:
            known = float((upper[i, i + 1 :] * solution[i + 1 :]).sum())
            solution[i] = (inner[i] - known) / upper[i, i]
    error = target - np.einsum("n,nm->m", inner, basis)
    return solution[1:], float(solution[0]), float((error * error).sum())


def orthonormal(rows: Array) -> Array:
    """Rows made orthonormal one after the other (twice, for precision); dependent rows become 0."""
    basis = np.zeros_like(rows)
    for i, row in enumerate(rows):
        rest = row.copy()
        for _ in range(2):
            rest -= np.einsum("n,nm->m", np.einsum("nm,m->n", basis[:i], rest), basis[:i])
        norm = float((rest * rest).sum())
        if norm > 1e-10 * float((row * row).sum()):
            basis[i] = rest / np.sqrt(norm)
    return basis


def tables_of(
    shapes: Array,
    weights: Array,
    constants: Array,
    time_steps: int,
    breakpoints: Array | None = None,
) -> Tables:
    """Tables of bases with offset and gain, in parallel or, with breakpoints, one bank per segment."""
    return coded_tables(
        time_steps,
        shapes[:, THRESHOLD:],
        offset=_tensor(shapes[:, OFFSET]),
        gain=_tensor(1 / shapes[:, WIDTH]),
        weight=_tensor(weights),
        bias=_tensor(constants),
        breakpoints=torch.empty(0) if breakpoints is None else _tensor(breakpoints),
    )


def coded_tables(
    time_steps: int,
    decays: Array,
    *,
    offset: Tensor,
    gain: Tensor,
    weight: Tensor,
    bias: Tensor,
    breakpoints: Tensor,
) -> Tables:
    """Tables whose threshold, reset and intensity lead with 1/2 and decay by ``decays`` [N, 3] per step."""
    if np.all(decays == 0.5):
        threshold = reset = intensity = halving_table(time_steps, len(decays))
    else:
        threshold, reset, intensity = torch.from_numpy(0.5 * powers(decays, time_steps)).permute(1, 2, 0)
    return Tables(
        threshold=threshold,
        reset=reset,
        intensity=intensity,
        weight=weight,
        bias=bias,
        offset=offset,
        gain=gain,
        breakpoints=breakpoints,
    )


def powers(decays: Array, time_steps: int) -> Array:
    """decays^t for t = 0 .. T-1 on a new last axis, by products, so the bits are the same everywhere."""
    factors = np.repeat(decays[..., None], time_steps, axis=-1)
    factors[..., 0] = 1.0
    return np.cumprod(factors, axis=-1, dtype=np.float64)


def published_tables_of(shapes: Array, weights: Array, constant: float, time_steps: int) -> Tables:
    """The same bases in the paper's form: no offset, gain +-1, alpha = |width| / 2, dt = 1."""
    width = _tensor(shapes[:, WIDTH])
    tau_threshold, tau_reset, tau_intensity = (
        _tensor(_tau(shapes[:, i])) for i in (THRESHOLD, RESET, INTENSITY)
    )
    # the simulated output leads with 1/2, the paper's table with alpha: the weight takes the ratio
    return published_tables(
        alpha=width.abs() / 2,
        tau_threshold=tau_threshold,
        tau_reset=tau_reset,
        tau_intensity=tau_intensity,
        dt=torch.ones_like(width),
        weight=_tensor(weights) / width.abs(),
        bias=constant,
        time_steps=time_steps,
        sign=width.sign(),
    )


def _tau(decay: Array) -> Array:
    """tau in units of dt, from the decay per step; tables constant in t have an infinite tau."""
    with np.errstate(divide="ignore"):
        return np.where(decay < 1, -1 / np.log(np.minimum(decay, 1)), np.inf)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64))
